//! `~` in the paths of a command line.

use crate::files::expand_home;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Arg, Command};
use std::any::TypeId;
use std::path::PathBuf;

/// A command whose paths, and those of its subcommands, may begin with `~`, the home folder, also in `--out=~/x`, which shells leave as
/// it is.
pub fn expand_paths(command: Command) -> Command {
    let path = PathBufValueParser::new().map(|path| expand_home(&path));
    let expanded = move |arg: Arg| {
        let is_path = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
        if is_path { arg.value_parser(path.clone()) } else { arg }
    };
    command.mut_args(expanded).mut_subcommands(expand_paths)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::value_parser;

    #[test]
    fn a_tilde_is_the_home_folder_in_all_paths_of_a_command_line() {
        let out = || Arg::new("out").long("out").value_parser(value_parser!(PathBuf));
        let name = Arg::new("name").long("name");
        let command = Command::new("x").arg(out()).arg(name).subcommand(Command::new("y").arg(out()));
        let matches =
            expand_paths(command).try_get_matches_from(["x", "--out=~/a", "--name=~/b", "y", "--out=~/c"]).unwrap();
        let home = std::env::home_dir().unwrap();
        assert_eq!(matches.get_one::<PathBuf>("out").unwrap(), &home.join("a"));
        assert_eq!(matches.get_one::<String>("name").unwrap(), "~/b");
        let inner = matches.subcommand_matches("y").unwrap();
        assert_eq!(inner.get_one::<PathBuf>("out").unwrap(), &home.join("c"));
    }
}
