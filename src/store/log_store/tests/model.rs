//! Random operations with restarts between, compared with the model after each.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Act {
    Step(Draw),
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let step =
        (any::<u8>(), any::<u16>(), any::<u16>()).prop_map(|(kind, a, b)| Act::Step(Draw { kind, a, b }));
    vec(prop_oneof![20 => step, 1 => Just(Act::Restart)], 1..80)
}

async fn run(acts: Vec<Act>, cache_bytes: usize) {
    let dir = tempfile::tempdir().unwrap();
    let options =
        LogOptions { cache_bytes, read_bytes: 4096, write_buffer_bytes: 64 * 1024, ..LogOptions::default() };
    let open = || RocksLogStore::open(dir.path(), options.clone(), panicking()).unwrap();
    let (mut store, mut model) = (open(), Model::default());
    for act in acts {
        match act {
            Act::Step(draw) => {
                let step = model.choose(draw);
                carry_out(&store, &step).await;
                model.apply(&step);
                if step.is_confirmed() {
                    assert_eq!(*store.durable().borrow(), model.last());
                }
            }
            Act::Restart => {
                store.close().await.unwrap();
                store = open();
                assert_eq!(*store.durable().borrow(), model.last());
            }
        }
        let found = Model::of(&store).await;
        assert!(found.agrees_with(&model), "found {found:?}\nexpected {model:?}");
        // What is committed past the end (a purge goes there) is written later.
        assert_eq!(found.committed, model.committed);
        let start = model.purged.map_or(0, |purged| purged.index() + 1);
        let mut reader = store.get_log_reader().await;
        let limited = reader.limited_get_log_entries(start, u64::MAX).await.unwrap();
        assert_eq!(limited.is_empty(), model.entries.is_empty());
        assert!(limited.iter().eq(model.entries.values().take(limited.len())));
    }
    store.close().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_run_of_operations_and_restarts_matches_the_model(
        acts in acts(),
        cache_bytes in prop_oneof![Just(0), Just(5_000), Just(1 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(acts, cache_bytes));
    }
}
