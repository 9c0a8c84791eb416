//! `package-files DIR`: writes the manual pages and the shell completions for the package.
//!
//! Hidden, because only `packaging/build` needs it. The pages are plain roff, made from the help of the commands.

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
    /// The directory to write to; created if missing
    directory: PathBuf,
}

const NAME: &str = "tapekeeper";

/// Sections of tapekeeper(8) that are not in the help of the commands.
const SECTIONS: [(&str, &str); 5] = [
    (
        "ENVIRONMENT",
        "TAPEKEEPER_CONFIG and TAPEKEEPER_JOBS name the files, as --config and --jobs do.\n\n\
         TAPEKEEPER_LOG sets how much is logged: info, debug, or a filter such as tapekeeper::backfill=debug.\n\n\
         TAPEKEEPER_ADMIN_TOKEN, TAPEKEEPER_CLICKHOUSE_PASSWORD, TAPEKEEPER_REDIS_PASSWORD and TAPEKEEPER_KAFKA_PASSWORD \
         hold passwords for which there is no credential.\n\n\
         HTTPS_PROXY and NO_PROXY apply to REST and WebSocket.\n\n\
         TAPEKEEPER_FAULTS breaks the service on purpose, to test the watchdog: wedge:LOOP@DURATION, several separated by \
         commas, where LOOP is ingest, consume or scheduler. After DURATION the loop gets stuck; the watchdog restarts the \
         service, and `systemctl status` names the loop. Off by default; the start logs a warning when it is set.",
    ),
    (
        "FILES",
        "/etc/tapekeeper/tapekeeper.toml: the configuration, with every key and a comment.\n\n\
         /etc/tapekeeper/jobs.toml and /etc/tapekeeper/jobs.d/*.toml: the schedule, see tapekeeper-jobs.toml(5).\n\n\
         /etc/credstore/: the credentials admin-token, clickhouse-password, redis-password and kafka-password, each optional.\n\n\
         /var/lib/tapekeeper/: log.db, history.db and service_state.json. [seal] to in the configuration names the directory of \
         sealed days.\n\n\
         /run/tapekeeper/admin.sock: the unix socket for the commands. Members of the group tapekeeper may open it and need no \
         token. [admin] socket in the configuration sets another path.\n\n\
         /usr/share/doc/tapekeeper/docs/: the reference. /usr/share/doc/tapekeeper/examples/: drop-ins for the unit.\n\n\
         /usr/share/tapekeeper/: alert rules for Prometheus and a dashboard for Grafana.",
    ),
    (
        "SIGNALS",
        "SIGTERM and SIGINT stop the service in order: sockets, log, consumer, last snapshot. A second signal ends the process \
         at once. SIGHUP reads the configuration again. No signal loses a row that is durable.",
    ),
    (
        "EXIT STATUS",
        "0: done. 1: the check ran and the answer is no. 64: usage. 65: rows that Parquet cannot hold. 69: the service does not \
         answer, or there is no history. 70: internal error. 73 and 74: the data directory cannot be created or written. 75: \
         try again later, for example because another recorder holds the data directory. 77: permission, because the user is \
         not in the group or has no token. 78: configuration, or a store of a newer version.\n\nsystemd does not restart \
         the service after 64, 65 and 78.",
    ),
    (
        "SYSTEMD",
        "The watchdog restarts a process with a stuck loop, and `systemctl status` names the loop. When systemd stops \
         restarting the service, it starts tapekeeper-alert@.service. tapekeeper.socket, when enabled, holds the port of the \
         API, so that a restart refuses no connection. `journalctl -x -u tapekeeper` explains messages, and filters them by \
         the fields JOB, RUN_ID, OUTCOME, EXCHANGE, SYMBOL, GAP_FIRST and GAP_LAST.",
    ),
];

/// Writes the pages and the completions.
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
    page.section("DESCRIPTION", &format!("{about}\n\nWithout a command it runs the service, as `run` does."));
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

/// tapekeeper-jobs.toml(5), made from the comments of the shipped schedule.
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

    /// A command with its arguments, then its subcommands.
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

    /// Options and positional arguments; global ones are listed once, with the program.
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
        // roff takes a line that begins with a dot or an apostrophe as a request.
        let guard = if text.starts_with(['.', '\'']) { "\\&" } else { "" };
        self.0.push_str(&format!("{guard}{}\n", escaped(text)));
    }
}

/// Text that roff prints literally.
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
    fn the_schedule_page_holds_the_shipped_schedule() {
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
