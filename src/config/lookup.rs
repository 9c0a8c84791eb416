//! Finds the files: from the command line, from the environment, at the default paths, or built in.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::problem::{Problem, Severity, Source};
use super::{DEFAULT_CONFIG, DEFAULT_JOBS, Environment};

/// The default paths of the configuration, in the order of the search.
const CONFIG_PATHS: [&str; 2] = ["tapekeeper.toml", "/etc/tapekeeper/tapekeeper.toml"];

/// The unit's state directory.
const INSTALLED_STATE: &str = "/var/lib/tapekeeper";

/// The unit's runtime directory.
const INSTALLED_RUNTIME: &str = "/run/tapekeeper";

/// A file that was found and read.
#[derive(Debug)]
pub struct ConfigFile {
    /// Its name in messages: the path, or `the built-in ...`.
    pub name: String,
    /// Its path; none when it is built in.
    pub path: Option<PathBuf>,
    /// Its text.
    pub text: String,
}

impl ConfigFile {
    fn built_in(what: &str, text: &str) -> Self {
        Self { name: format!("the built-in {what}"), path: None, text: text.to_owned() }
    }
}

/// The configuration; `None` when it exists but cannot be read.
pub fn find_config(
    explicit: Option<&Path>,
    environment: Environment<'_>,
    problems: &mut Vec<Problem>,
) -> Option<ConfigFile> {
    if let Some(path) = explicit.map(Path::to_owned).or_else(|| variable("TAPEKEEPER_CONFIG", environment)) {
        return read_named(&path, problems);
    }
    for path in CONFIG_PATHS {
        match read(Path::new(path)) {
            Ok(Some(text)) => return Some(text),
            Ok(None) => {}
            // A file that exists but cannot be read must not be replaced by the next one.
            Err(problem) => {
                problems.push(problem);
                return None;
            }
        }
    }
    Some(ConfigFile::built_in("configuration", DEFAULT_CONFIG))
}

/// The schedule, followed by its drop-ins `jobs.d/*.toml`.
pub fn find_jobs(
    explicit: Option<&Path>,
    config: Option<&Path>,
    environment: Environment<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<ConfigFile> {
    let mut files = Vec::new();
    let mut directory = config.map(|config| config.with_file_name("jobs.d"));
    if let Some(path) = explicit.map(Path::to_owned).or_else(|| variable("TAPEKEEPER_JOBS", environment)) {
        files.extend(read_named(&path, problems));
        directory = Some(path.with_file_name("jobs.d"));
    } else {
        match config.map(|config| read(&config.with_file_name("jobs.toml"))).transpose() {
            Ok(found) => {
                files.push(found.flatten().unwrap_or_else(|| ConfigFile::built_in("schedule", DEFAULT_JOBS)));
            }
            Err(problem) => problems.push(problem),
        }
    }
    if let Some(directory) = directory {
        files.extend(drop_ins(&directory, problems));
    }
    files
}

/// `$STATE_DIRECTORY`; else the unit's state directory when the configuration is the installed one, so that
/// `tapekeeper audit` in a shell reads the service's data; else `./data`.
pub fn default_data_dir(environment: Environment<'_>, config: Option<&Path>) -> PathBuf {
    // systemd may list several directories; the first one is ours.
    let state = environment("STATE_DIRECTORY").and_then(|list| list.split(':').next().map(PathBuf::from));
    let elsewhere = if config == Some(Path::new(CONFIG_PATHS[1])) { INSTALLED_STATE } else { "data" };
    state.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from(elsewhere))
}

/// `$RUNTIME_DIRECTORY/admin.sock`; else the unit's socket when the configuration is the installed one, so that
/// `tapekeeper status` in a shell finds the service; else none.
pub fn default_socket(environment: Environment<'_>, config: Option<&Path>) -> Option<PathBuf> {
    let runtime = environment("RUNTIME_DIRECTORY").and_then(|list| list.split(':').next().map(PathBuf::from));
    let installed = (config == Some(Path::new(CONFIG_PATHS[1]))).then(|| PathBuf::from(INSTALLED_RUNTIME));
    let directory = runtime.filter(|path| !path.as_os_str().is_empty()).or(installed)?;
    Some(directory.join("admin.sock"))
}

/// The drop-ins in the order of their names, like systemd's; none without the directory.
fn drop_ins(directory: &Path, problems: &mut Vec<Problem>) -> Vec<ConfigFile> {
    let listed = fs::read_dir(directory).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut paths: Vec<PathBuf> = match listed {
        Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Vec::new(),
        Err(error) => {
            problems.push(unreadable(directory, &error));
            return Vec::new();
        }
    };
    // An editor leaves hidden files, some of them dangling links, beside the file that it has open.
    let is_hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml") && !is_hidden(path));
    paths.sort();
    paths.iter().filter_map(|path| read_named(path, problems)).collect()
}

/// A path from the environment; an empty variable counts as unset.
fn variable(name: &str, environment: Environment<'_>) -> Option<PathBuf> {
    environment(name).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Reads a file that must exist, because the user or the directory listing named it.
fn read_named(path: &Path, problems: &mut Vec<Problem>) -> Option<ConfigFile> {
    match read(path) {
        Ok(Some(text)) => return Some(text),
        Ok(None) => problems.push(unreadable(path, &"there is no such file")),
        Err(problem) => problems.push(problem),
    }
    None
}

/// Reads a file; `None` when it does not exist.
fn read(path: &Path) -> Result<Option<ConfigFile>, Problem> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(path, &error)),
    };
    let name = path.display().to_string();
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(ConfigFile { name, path: Some(path.to_owned()), text })),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let location = Some((Source { name, text: text.into() }, at..at + 1));
            let help = Some("save the file as UTF-8".to_owned());
            Err(Problem { severity: Severity::Error, message: "this is not UTF-8".to_owned(), help, location })
        }
    }
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Problem {
    let help = "pass a file that this user can read to --config or --jobs, or omit the option to use the built-in one";
    Problem::without_location(format!("cannot read {}: {error}", path.display()), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_drop_ins_are_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", ".hidden.toml", "c.toml~", "README"] {
            fs::write(directory.path().join(name), "schema = 1\n").unwrap();
        }
        std::os::unix::fs::symlink("me@host.123:456", directory.path().join(".#a.toml")).unwrap();
        let mut problems = Vec::new();
        let files = drop_ins(directory.path(), &mut problems);
        let names = files.iter().filter_map(|file| file.path.as_ref()?.file_name()?.to_str());
        assert_eq!(names.collect::<Vec<_>>(), ["a.toml", "b.toml"]);
        assert!(problems.is_empty());
    }

    #[test]
    fn the_socket_is_in_the_runtime_directory_of_the_unit_or_of_the_installed_configuration() {
        let socket = |runtime: Option<&str>, config: Option<&str>| {
            let environment = |name: &str| runtime.filter(|_| name == "RUNTIME_DIRECTORY").map(str::to_owned);
            default_socket(&environment, config.map(Path::new)).map(|path| path.display().to_string())
        };
        assert_eq!(socket(Some("/run/a:/run/b"), None).as_deref(), Some("/run/a/admin.sock"));
        assert_eq!(socket(None, Some(CONFIG_PATHS[1])).as_deref(), Some("/run/tapekeeper/admin.sock"));
        assert_eq!(socket(Some(""), Some("tapekeeper.toml")), None);
    }
}
