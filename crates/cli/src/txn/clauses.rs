//! `--if`, `--then` and `--else`: a transaction in words of the command line.
//!
//! Each word is an argument of its own, so that keys and values with spaces need no
//! quoting beyond the shell's.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use kvorum_client::{Compare, Operation, Range, Relation, Target, Txn};

use crate::args::bytes;

const COMPARE_FORM: &str = "write `--if KEY exists`, `--if KEY absent` or `--if KEY \
                            value|version|create_revision|mod_revision|lease RELATION WHAT`";
const OPERATION_FORM: &str = "write `put KEY VALUE`, `del KEY` or `get KEY`";

/// The transaction that the clauses make.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clauses {
    pub(crate) txn: Txn,
}

impl Args for Clauses {
    fn augment_args(command: Command) -> Command {
        let clause = |name: &'static str, words, most: usize, help: &'static str| {
            Arg::new(name)
                .long(name)
                .action(ArgAction::Append)
                .num_args(2..=most)
                .value_name(words)
                .value_parser(clap::value_parser!(OsString))
                .allow_negative_numbers(true)
                .help(help)
        };
        command
            .arg(clause("if", "WORD", 4, "Something that must hold of a key"))
            .arg(clause("then", "WORD", 3, "Something to do if everything holds"))
            .arg(clause("else", "WORD", 3, "Something to do if anything does not hold"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Clauses {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let refuse = |error: String| clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n"));
        let mut txn = Txn::new();
        for words in occurrences(matches, "if") {
            txn = txn.when(compare(&words).map_err(refuse)?);
        }
        for words in occurrences(matches, "then") {
            txn = txn.then(operation(&words).map_err(refuse)?);
        }
        for words in occurrences(matches, "else") {
            txn = txn.otherwise(operation(&words).map_err(refuse)?);
        }
        Ok(Self { txn })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn occurrences(matches: &ArgMatches, name: &str) -> Vec<Vec<OsString>> {
    let all = matches.get_occurrences::<OsString>(name);
    all.into_iter().flatten().map(|words| words.cloned().collect()).collect()
}

fn compare(words: &[OsString]) -> Result<Compare, String> {
    let refuse = || refusal(COMPARE_FORM, words);
    match words {
        [key, what] if what == "exists" => Ok(Compare::exists(bytes(key.clone()))),
        [key, what] if what == "absent" => Ok(Compare::absent(bytes(key.clone()))),
        [key, target, relation, operand] => {
            let relation = match relation.to_str() {
                Some("=" | "==" | "eq") => Relation::Equal,
                Some("!=" | "ne") => Relation::NotEqual,
                Some(">" | "gt") => Relation::Greater,
                Some("<" | "lt") => Relation::Less,
                _ => {
                    return Err(format!(
                        "`{}` is no relation; write =, !=, > or <, or eq, ne, gt, lt",
                        relation.display()
                    ));
                }
            };
            let number = || {
                let number = operand.to_str().and_then(|text| text.parse().ok());
                number.ok_or_else(|| {
                    format!(
                        "`{}` is compared with a number, not with `{}`",
                        target.display(),
                        operand.display()
                    )
                })
            };
            let target = match target.to_str() {
                Some("value") => Target::Value(bytes(operand.clone())),
                Some("version") => Target::Version(number()?),
                Some("create_revision") => Target::CreateRevision(number()?),
                Some("mod_revision") => Target::ModRevision(number()?),
                Some("lease") => Target::Lease(number()?),
                _ => return Err(refuse()),
            };
            Ok(Compare::new(bytes(key.clone()), relation, target))
        }
        _ => Err(refuse()),
    }
}

fn operation(words: &[OsString]) -> Result<Operation, String> {
    match words {
        [what, key, value] if what == "put" => Ok(Operation::put(bytes(key.clone()), bytes(value.clone()))),
        [what, key] if what == "del" => Ok(Operation::delete(Range::Key(bytes(key.clone())))),
        [what, key] if what == "get" => Ok(Operation::get(Range::Key(bytes(key.clone())))),
        _ => Err(refusal(OPERATION_FORM, words)),
    }
}

fn refusal(form: &str, words: &[OsString]) -> String {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    format!("{form}, not `{}`", words.join(" "))
}
