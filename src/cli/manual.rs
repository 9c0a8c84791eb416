//! `tapekeeper package-files DIR`: the manual pages and the completions, written from the code for the package.
//!
//! Hidden, because only `packaging/build` needs it. Plain roff: the few requests used are in every man page.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args as ClapArgs, Command, CommandFactory};
use clap_complete::{Shell, generate_to};

use super::Cli;
use crate::config::DEFAULT_JOBS;
use crate::jobs::spec::TaskKind;

/// Arguments of `package-files`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Where they are written; made when missing
    directory: PathBuf,
}

const NAME: &str = "tapekeeper";

/// What the command's own help does not say, as sections of tapekeeper(8).
const SECTIONS: [(&str, &str); 5] = [
    (
        "ENVIRONMENT",
        "TAPEKEEPER_CONFIG and TAPEKEEPER_JOBS name the files as --config and --jobs do.\n\n\
         TAPEKEEPER_LOG sets how much is logged: info, debug, or a filter such as tapekeeper::backfill=debug.\n\n\
         TAPEKEEPER_ADMIN_TOKEN, TAPEKEEPER_CLICKHOUSE_PASSWORD, TAPEKEEPER_REDIS_PASSWORD and TAPEKEEPER_KAFKA_PASSWORD \
         hold what no credential holds.\n\n\
         HTTPS_PROXY and NO_PROXY hold for REST and WebSocket.\n\n\
         TAPEKEEPER_FAULTS breaks the service on request, to show that its watchdog works: wedge:LOOP@DURATION, several \
         with commas between, where LOOP is ingest, consume or scheduler. At this age the loop gets stuck; the watchdog \
         restarts the service, and `systemctl status` names the loop. Off by default, and warned of at start.",
    ),
    (
        "FILES",
        "/etc/tapekeeper/tapekeeper.toml: the configuration, with every key and a comment.\n\n\
         /etc/tapekeeper/jobs.toml and /etc/tapekeeper/jobs.d/*.toml: the schedule, see tapekeeper-jobs.toml(5).\n\n\
         /etc/credstore/: admin-token, clickhouse-password, redis-password and kafka-password, each optional.\n\n\
         /var/lib/tapekeeper/: log.db, history.db and service_state.json.\n\n\
         /run/tapekeeper/admin.sock: how commands reach the service; members of the group tapekeeper may open it, and change \
         things without a token ([admin] socket in the configuration names another place).\n\n\
         /usr/share/doc/tapekeeper/examples/: drop-ins for the unit. /usr/share/tapekeeper/: alert rules for Prometheus and a \
         dashboard for Grafana.",
    ),
    (
        "SIGNALS",
        "SIGTERM and SIGINT stop in order: sockets, log, consumer, last snapshot; a second one ends the process at once. \
         SIGHUP reads the configuration again. Nothing that was acknowledged is lost in any case.",
    ),
    (
        "EXIT STATUS",
        "0; 1 the check ran and the answer is no; 64 usage; 65 rows that Parquet cannot hold; 69 the service does not \
         answer, or there is no history; 70 internal; 73 and 74 the data directory; 75 try again later, such as another \
         recorder holding the directory; 77 permission: no member of the group, or the token is missing; 78 configuration, or a store of a newer version. systemd does not \
         restart the service after 64 and 78.",
    ),
    (
        "SYSTEMD",
        "tapekeeper.service restarts a process of which a loop is stuck, and `systemctl status` then says which. A service \
         that is given up starts tapekeeper-alert@.service. tapekeeper.socket, when enabled, holds the port of the API, so \
         that a restart refuses no connection. `journalctl -x -u tapekeeper` explains messages; their fields JOB, RUN_ID, \
         OUTCOME, EXCHANGE, SYMBOL, GAP_FIRST and GAP_LAST can be filtered by.",
    ),
];

/// Writes all of them.
pub fn write(args: &Args) -> anyhow::Result<()> {
    let directory = &args.directory;
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    put(directory, "tapekeeper.8", &program_page())?;
    put(directory, "tapekeeper-jobs.toml.5", &jobs_page())?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), NAME, directory).with_context(|| format!("write for {shell}"))?;
    }
    Ok(())
}

fn put(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// tapekeeper(8).
fn program_page() -> String {
    let mut program = Cli::command();
    program.build();
    let mut page = Page::new("TAPEKEEPER", 8, "System administration");
    let about = program.get_about().map(ToString::to_string).unwrap_or_default();
    page.section("NAME", &format!("{NAME} - {}", first_lower(&about)));
    page.head("SYNOPSIS");
    page.bold(&format!("{NAME} [OPTIONS] [COMMAND]"));
    page.section("DESCRIPTION", &format!("{about}\n\nWithout a command the service runs, as with `run`."));
    page.head("OPTIONS");
    page.arguments(&program, true);
    page.head("COMMANDS");
    for command in visible(&program) {
        page.command(NAME, command);
    }
    for (title, text) in SECTIONS {
        page.section(title, text);
    }
    page.section("SEE ALSO", "tapekeeper-jobs.toml(5), systemctl(1), journalctl(1)");
    page.0
}

/// tapekeeper-jobs.toml(5): the shipped schedule explains itself.
fn jobs_page() -> String {
    let mut page = Page::new("TAPEKEEPER-JOBS.TOML", 5, "File formats");
    page.section("NAME", "tapekeeper-jobs.toml - what Tapekeeper does on schedule");
    page.section("SYNOPSIS", "/etc/tapekeeper/jobs.toml, /etc/tapekeeper/jobs.d/*.toml");
    let comment: Vec<&str> = DEFAULT_JOBS.lines().take_while(|line| line.starts_with('#')).collect();
    let words: Vec<&str> = comment.iter().map(|line| line.trim_start_matches('#').trim()).collect();
    let paragraphs: Vec<String> = words.split(|line| line.is_empty()).map(|lines| lines.join(" ")).collect();
    page.section("DESCRIPTION", &paragraphs.join("\n\n"));
    let tasks: Vec<&str> = TaskKind::ALL.iter().map(|(task, _)| *task).collect();
    page.section("TASKS", &format!("A job's `task` is one of {}.", tasks.join(", ")));
    page.head("EXAMPLE");
    page.0.push_str("The schedule as shipped:\n.PP\n.nf\n");
    for line in DEFAULT_JOBS.lines().skip(comment.len()) {
        page.line(line);
    }
    page.0.push_str(".fi\n");
    page.section("SEE ALSO", "tapekeeper(8)");
    page.0
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn first_lower(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// A manual page being written.
struct Page(String);

impl Page {
    fn new(title: &str, section: u8, kind: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self(format!(".TH {title} {section} \"\" \"Tapekeeper {version}\" \"{kind}\"\n"))
    }

    fn head(&mut self, title: &str) {
        self.0.push_str(&format!(".SH \"{title}\"\n"));
    }

    /// A section of paragraphs, with an empty line between them.
    fn section(&mut self, title: &str, text: &str) {
        self.head(title);
        for (at, paragraph) in text.split("\n\n").enumerate() {
            if at > 0 {
                self.0.push_str(".PP\n");
            }
            self.line(paragraph);
        }
    }

    /// A command with its arguments, then those below it.
    fn command(&mut self, above: &str, command: &Command) {
        let name = format!("{above} {}", command.get_name());
        if !command.has_subcommands() {
            self.0.push_str(&format!(".SS \"{}\"\n", escaped(&name)));
            self.line(&format!("{}.", command.get_about().map(ToString::to_string).unwrap_or_default()));
            self.arguments(command, false);
        }
        for below in visible(command) {
            self.command(&name, below);
        }
    }

    /// Options and positional arguments; those that every command has stand with the program only.
    fn arguments(&mut self, command: &Command, with_global: bool) {
        for argument in command.get_arguments().filter(|argument| with_global || !argument.is_global_set()) {
            let id = argument.get_id().as_str();
            if argument.is_hide_set() || (!with_global && matches!(id, "help" | "version")) {
                continue;
            }
            self.0.push_str(".TP\n");
            self.bold(&argument.to_string());
            let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
            if !defaults.is_empty() && argument.get_action().takes_values() {
                help.push_str(&format!(" [default: {}]", defaults.join(",")));
            }
            let values: Vec<String> =
                argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            if !values.is_empty() && argument.get_action().takes_values() {
                help.push_str(&format!(" [one of: {}]", values.join(", ")));
            }
            self.line(&help);
        }
    }

    fn bold(&mut self, text: &str) {
        self.0.push_str(&format!("\\fB{}\\fR\n", escaped(text)));
    }

    fn line(&mut self, text: &str) {
        // A line that begins with a dot or an apostrophe would be a request.
        let guard = if text.starts_with(['.', '\'']) { "\\&" } else { "" };
        self.0.push_str(&format!("{guard}{}\n", escaped(text)));
    }
}

/// As roff prints it literally.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_is_in_the_manual() {
        let page = program_page();
        for words in ["tapekeeper jobs run", "tapekeeper gaps", "\\-\\-dry\\-run", "TAPEKEEPER_FAULTS", "\\-\\-config"]
        {
            assert!(page.contains(words), "{words} is not in\n{page}");
        }
        assert!(!page.contains("package"), "{page}");
    }

    #[test]
    fn the_schedule_explains_itself() {
        let page = jobs_page();
        assert!(page.contains("[job.state\\-snapshot]") && page.contains("overlap"), "{page}");
    }

    #[test]
    fn all_files_are_written() {
        let directory = tempfile::tempdir().unwrap();
        write(&Args { directory: directory.path().join("new") }).unwrap();
        let mut names: Vec<String> = fs::read_dir(directory.path().join("new"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["_tapekeeper", "tapekeeper-jobs.toml.5", "tapekeeper.8", "tapekeeper.bash", "tapekeeper.fish"]
        );
    }
}
