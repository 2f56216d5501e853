//! `compact`: the past is given up, and its space with it.

use clap::Args;
use kvorum_client::Error;

use crate::args::{ClientArgs, Format, help};
use crate::failure::Failure;
use crate::output::Io;

pub(crate) const HELP: &str = help!(
    "  kvorum compact 41
  kvorum compact 41 --physical

Reads and watches of revisions below this one fail from then on. What keys hold now
is not touched. With --physical the node that answers waits until it has given the
space back, but no longer than its own time limit for requests, whatever --timeout is:
the exit code is then 5, the revisions are given up, and the space follows by itself."
);

/// Arguments of `compact`.
#[derive(Debug, Args)]
pub struct CompactArgs {
    /// The oldest revision that can still be read afterwards
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    revision: i64,
    /// Wait until the node that answers has given the space back
    #[arg(long)]
    physical: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(crate) async fn compact(args: CompactArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let done = args.client.client()?.compact(args.revision, args.physical).await.map_err(|error| {
        let goes_on = matches!(error, Error::Timeout { .. });
        let failure = Failure::from(error);
        if goes_on {
            failure.hint("the space is given back by itself; there is nothing to repeat")
        } else {
            failure
        }
    })?;
    match args.client.output {
        Format::Json => io.line(&serde_json::to_string(&done).expect("plain fields have a JSON form")),
        Format::Text => io.line(&format!("compacted up to revision {}", done.compacted_revision)),
        Format::Table => {
            let row = vec![done.compacted_revision.to_string(), done.revision.to_string()];
            io.rows(Format::Table, &["COMPACTED REVISION", "REVISION"], vec![row])
        }
    }
}

#[cfg(test)]
mod tests {
    use kvorum_scripted::{Scripted, Step};

    use crate::failure::Exit;
    use crate::testing::Captured;

    #[tokio::test]
    async fn compact_confirms_how_far_it_went() {
        let node = Scripted::steps([Step::reply(200, r#"{"revision":120,"compacted_revision":100}"#)]).await;
        for (form, shown) in [
            ("text", "compacted up to revision 100\n"),
            ("json", "{\"revision\":120,\"compacted_revision\":100}\n"),
        ] {
            let mut captured = Captured::default();
            let exit = captured.run(&node, &["compact", "100", "--physical", "-o", form]).await;
            assert_eq!((exit, captured.out()), (Exit::Done, shown));
        }
        assert_eq!(node.requests()[0].body, br#"{"physical":true,"revision":100}"#);
    }

    #[tokio::test]
    async fn a_node_that_waits_no_longer_is_not_asked_for_more_time() {
        let node = Scripted::steps([Step::error(504, "timeout")]).await;
        let mut captured = Captured::default();
        let exit = captured.run(&node, &["compact", "100", "--physical"]).await;
        assert_eq!((exit, node.requests().len()), (Exit::Unavailable, 1));
        assert!(captured.err().contains("nothing to repeat"), "{}", captured.err());
    }
}
