//! Ways in which Raft goes wrong: when a node remembers too little of what it promised
//! before a restart, and when a leader takes old answers for new ones. None may be
//! possible here.

use std::time::{Duration, Instant};

use crate::support::cluster::Builder;
use crate::support::eventually;
use crate::support::load::Load;
use crate::support::node::copy_dir;

/// A leader that resumed its term after a restart would write no entry of its
/// own first; if its disk had lost the newest entries, which others hold, it
/// would then give their log ids to other entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_leader_does_not_lead_its_old_term_again() {
    let mut cluster = Builder::new().form(3).await;
    for round in 0..6 {
        let leader = cluster.leader().await;
        let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        cluster.put(leader, "round", &round.to_string()).await.ok();
        let term = cluster.settle().await.term;

        // Nobody else can have been elected meanwhile.
        for other in &others {
            cluster.node(*other).pause();
        }
        cluster.node(leader).kill();
        cluster.node(leader).start().await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(300) {
            let status = cluster.status(leader).await;
            assert!(status.role != "leader", "it leads at once, alone: {status:?}");
            assert!(status.leader_id != Some(leader), "it believes to lead: {status:?}");
        }
        for other in &others {
            cluster.node(*other).resume();
        }
        let settled = cluster.settle().await;
        assert!(settled.term > term, "term {} was led twice", settled.term);
        assert_eq!(cluster.get(leader, "round", "linearizable").await, Some(round.to_string()));
    }
}

/// The same with the loss: the leader's folder goes back to before an entry that
/// the others have on disk and that was acknowledged, as when its own disk had
/// been the slowest and lost it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lost_its_newest_entries_does_not_reuse_their_log_ids() {
    let mut cluster = Builder::new().form(3).await;
    let mut shown = 0;
    for round in 0..8 {
        if shown == 3 {
            break;
        }
        let leader = cluster.leader().await;
        cluster.put(leader, "before", &round.to_string()).await.ok();
        cluster.settle().await;
        let folder = cluster.nodes[&leader].data_dir();
        let earlier = folder.with_extension(format!("{round}"));
        cluster.node(leader).pause();
        copy_dir(&folder, &earlier);
        cluster.node(leader).resume();
        // Pausing may have cost it the leadership; this round then shows nothing.
        if cluster.leader().await != leader {
            continue;
        }
        shown += 1;
        let acknowledged = cluster.put(leader, "acknowledged", &round.to_string()).await.ok();
        let revision = acknowledged.json()["revision"].as_i64().unwrap();
        cluster.settle().await;

        cluster.node(leader).kill();
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::rename(&earlier, &folder).unwrap();
        cluster.node(leader).start_at_once().await;
        eventually("another write is acknowledged through the restarted node", async || {
            let path = "/v1/kv/next";
            let http = cluster.http.with_timeout(Duration::from_secs(6));
            match http.send("PUT", cluster.addr(leader), path, &[], round.to_string()).await {
                Ok(answer) if answer.status < 300 => Ok(()),
                Ok(answer) => Err(answer.text()),
                Err(trouble) => Err(trouble.to_string()),
            }
        })
        .await;
        cluster.settle().await;
        for id in cluster.ids() {
            let found =
                cluster.http.get(cluster.addr(id), "/v1/kv/acknowledged?consistency=local").await.ok();
            assert_eq!(found.text(), round.to_string(), "on node {id}");
            assert_eq!(found.number("etag"), Some(revision), "on node {id}");
            assert_eq!(cluster.get(id, "next", "local").await, Some(round.to_string()), "on node {id}");
        }
    }
    assert!(shown > 0, "the leader never kept its place while its folder was copied");
}

/// A lease rests on the promise of followers not to vote for a while. One that
/// restarts has forgotten it, so that a new leader can be elected within the old
/// one's lease: the old one must not answer out of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_leader_serves_nothing_stale_when_followers_forget_its_lease() {
    let mut cluster =
        Builder::new().with_links().options(|options| options.request_timeout_ms = Some(1_000)).form(3).await;
    for round in 0..3 {
        let old = cluster.leader().await;
        let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != old).collect();
        cluster.put(old, "k", &format!("old {round}")).await.ok();
        cluster.settle().await;

        // From here on the old leader hears of nothing.
        cluster.links.isolate(old, cluster.ids());
        for other in &others {
            cluster.node(*other).kill();
            cluster.node(*other).start_at_once().await;
        }
        // Asks the old leader all the time; only what is answered after the new
        // value was acknowledged must not be old.
        let (http, addr) = (cluster.http.clone(), cluster.addr(old).to_owned());
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let reader = tokio::spawn(async move {
            let mut answers = Vec::new();
            while stopped.try_recv().is_err() {
                for consistency in ["lease", "linearizable"] {
                    let begun = Instant::now();
                    let path = format!("/v1/kv/k?consistency={consistency}");
                    let answer = http.get(&addr, &path).await;
                    if answer.status == 200 {
                        answers.push((begun, answer.text()));
                    }
                }
            }
            answers
        });
        let value = format!("new {round}");
        let acknowledged = eventually("the majority goes on", async || {
            let http = cluster.http.with_timeout(Duration::from_secs(3));
            match http.send("PUT", cluster.addr(others[0]), "/v1/kv/k", &[], value.clone()).await {
                Ok(answer) if answer.status < 300 => Ok(Instant::now()),
                Ok(answer) => Err(answer.text()),
                Err(trouble) => Err(trouble.to_string()),
            }
        })
        .await;
        let path = "/v1/kv/k?consistency=lease";
        let late = cluster.http.get(cluster.addr(old), path).await;
        assert!(matches!(late.status, 503 | 504), "{}: {}", late.status, late.text());
        stop.send(()).unwrap();
        for (begun, answer) in reader.await.unwrap() {
            assert!(
                begun < acknowledged || answer == value,
                "read {answer:?} after {value:?} was acknowledged"
            );
        }
        cluster.links.heal();
        cluster.settle().await;
        assert_eq!(cluster.get(old, "k", "lease").await, Some(value));
    }
}

/// A voter whose folder is gone has forgotten what it confirmed. Its vote and that of a node which
/// missed a write could elect a leader without the write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_lost_its_folder_does_not_help_to_elect_a_leader() {
    let mut cluster = Builder::new().form(3).await;
    let leader = cluster.leader().await;
    cluster.put(leader, "k", "acknowledged").await.ok();
    cluster.settle().await;
    let wiped = cluster.other_than(leader);
    let third = cluster.ids().into_iter().find(|id| ![leader, wiped].contains(id)).unwrap();
    cluster.node(wiped).kill();
    cluster.node(leader).kill();
    std::fs::remove_dir_all(cluster.nodes[&wiped].data_dir()).unwrap();
    cluster.node(wiped).start().await;
    // The request waits for several election timeouts.
    cluster.put(third, "k", "elected by the forgetful").await.error(503, "unavailable");
    assert_ne!(cluster.status(third).await.role, "leader");
    assert_eq!(cluster.status(wiped).await.role, "uninitialized");
    // With the old leader there is a majority that remembers; it feeds the wiped node anew.
    cluster.node(leader).start().await;
    cluster.settle().await;
    assert_eq!(cluster.get(wiped, "k", "linearizable").await.as_deref(), Some("acknowledged"));
}

/// A leader stands still with answers of its followers on their way to it. They elect
/// another one, which writes. The old leader goes on, is asked for a linearizable read,
/// and only then gets the old answers, the one after the other: the first one commits
/// entries, which makes it send appends that end where the other answer ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_does_not_confirm_a_read_by_old_answers() {
    let mut cluster = Builder::new().with_links().form(3).await;
    for round in 0..4 {
        let leader = cluster.leader().await;
        let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        let load = Load::start(&[cluster.addr(leader).to_owned()], 8);
        load.progress(100).await;
        for other in &others {
            cluster.links.cut(*other, leader);
        }
        // Long enough for entries to reach the followers and not to be committed.
        tokio::time::sleep(Duration::from_millis(30)).await;
        cluster.node(leader).pause();
        let key = format!("round-{round}");
        let written = eventually("the others elect a leader and write", async || {
            let http = cluster.http.with_timeout(Duration::from_secs(3));
            let path = format!("/v1/kv/{key}");
            let answer = http.send("PUT", cluster.addr(others[0]), &path, &[], "new").await;
            let answer = answer.map_err(|trouble| trouble.to_string())?;
            match answer.status {
                200 | 201 => Ok(answer.json()["revision"].as_i64().unwrap()),
                status => Err(format!("{status}: {}", answer.text())),
            }
        })
        .await;
        for other in &others {
            cluster.links.cut(leader, *other);
            cluster.links.bar(*other, leader);
        }
        let http = cluster.http.with_timeout(Duration::from_millis(500));
        let (addr, path) =
            (cluster.addr(leader).to_owned(), format!("/v1/kv/{key}?consistency=linearizable"));
        let reading = tokio::spawn(async move { http.send("GET", &addr, &path, &[], "").await });
        cluster.node(leader).resume();
        for other in &others {
            tokio::time::sleep(Duration::from_millis(5)).await;
            cluster.links.mend(*other, leader);
        }
        if let Ok(answer) = reading.await.unwrap()
            && let Some(seen) = answer.number("x-kvorum-revision")
        {
            assert!(seen >= written, "round {round}: a read saw {seen} after {written} was acknowledged");
        }
        cluster.links.heal();
        drop(load.stop().await);
        cluster.settle().await;
    }
}
