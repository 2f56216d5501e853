//! What the log and the replicas' answers hold: commands and outcomes.

#![no_main]

use bytes::Bytes;
use kvorum_fuzz::command::{Command, Outcome, OutcomeResult, Proposal};
use kvorum_fuzz::etcd_api::services;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let bytes = Bytes::copy_from_slice(data);
    match choice % 4 {
        0 => {
            if let Ok(command) = Proposal::from_bytes(bytes).decode() {
                check_command(&command);
            }
        }
        1 => {
            if let Ok(command) = serde_json::from_slice::<Command>(data) {
                check_command(&command);
            }
        }
        2 => {
            if let Ok(outcome) = Outcome::decode(bytes) {
                check_outcome(outcome);
            }
        }
        _ => {
            if let Ok(outcome) = serde_json::from_slice::<Outcome>(data) {
                check_outcome(outcome);
            }
        }
    }
});

fn check_command(command: &Command) {
    assert_eq!(command.encode().decode().as_ref(), Ok(command));
    let json = serde_json::to_string(command).expect("commands have a JSON form");
    let read: Command = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"));
    assert_eq!(&read, command);
}

fn check_outcome(outcome: Outcome) {
    assert_eq!(Outcome::decode(outcome.encode().into()).as_ref(), Ok(&outcome));
    let json = serde_json::to_string(&outcome).expect("outcomes have a JSON form");
    let read: Outcome = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"));
    assert_eq!(read, outcome);
    if let OutcomeResult::Txn(done) = outcome.result {
        let _ = services::txn_response(done);
    }
}
