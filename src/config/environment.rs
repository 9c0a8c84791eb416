//! The environment variables of this process, those with passwords apart.
//!
//! Every program of the same user can read `/proc/PID/environ`, and the jobs' programs are such programs. It shows what
//! the process was started with, whatever the process removes later. So the service starts itself again without those
//! variables and passes their values through a pipe.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::Context;

/// Set for the second start: its standard input holds the values. The value is the process's number, which stays the
/// same, so that the variable means nothing to any other process.
const ON_STDIN: &str = "TAPEKEEPER_SECRETS_ON_STDIN";
/// Most bytes of all values; the kernel keeps as many in a pipe that nobody reads yet.
const SECRETS_BYTES_MAX: usize = 60 << 10;

type Secrets = BTreeMap<OsString, OsString>;

static SECRETS: OnceLock<Secrets> = OnceLock::new();

/// Reads a variable; of those with passwords also after [`hide_secrets`].
pub fn variable(name: &str) -> Option<String> {
    let hidden = SECRETS.get().and_then(|secrets| secrets.get(&OsString::from(name)).cloned());
    hidden.or_else(|| std::env::var_os(name))?.into_string().ok()
}

/// Removes the variables with passwords from what other processes can read of this one. It replaces the process by a new
/// start of the same program when there is such a variable, and then returns in the new one.
///
/// # Errors
/// The program cannot be started again. The variables are still in place, and the caller may continue with them.
pub fn hide_secrets() -> anyhow::Result<()> {
    // Also its memory and descriptors: a password in a file or a credential is in the former. It costs core dumps.
    let not_dumpable = rustix::process::DumpableBehavior::NotDumpable;
    let own = std::process::id().to_string();
    if std::env::var_os(ON_STDIN).is_some_and(|number| number.as_bytes() == own.as_bytes()) {
        let mut passed = Vec::new();
        std::io::stdin().read_to_end(&mut passed).context("read the passwords that this process passed to itself")?;
        SECRETS.set(decode(&passed)).ok();
        return rustix::process::set_dumpable_behavior(not_dumpable).context("protect the memory of this process");
    }
    let secrets: Secrets = std::env::vars_os().filter(|(name, _)| is_secret(name.as_bytes())).collect();
    if secrets.is_empty() {
        return rustix::process::set_dumpable_behavior(not_dumpable).context("protect the memory of this process");
    }
    let passed = encode(&secrets);
    anyhow::ensure!(passed.len() <= SECRETS_BYTES_MAX, "the passwords have {} bytes", passed.len());
    let (reader, mut writer) = std::io::pipe().context("open a pipe")?;
    writer.write_all(&passed).context("write to a pipe")?;
    drop(writer);
    let mut again = Command::new("/proc/self/exe");
    let mut arguments = std::env::args_os();
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    again.args(arguments).stdin(Stdio::from(reader)).env(ON_STDIN, own);
    for name in secrets.keys() {
        again.env_remove(name);
    }
    Err(again.exec()).context("start the program again without passwords in its environment")
}

fn is_secret(name: &[u8]) -> bool {
    name.starts_with(b"TAPEKEEPER_")
        && [&b"PASSWORD"[..], b"TOKEN", b"SECRET", b"KEY"].iter().any(|word| name.ends_with(word))
}

/// Neither names nor values of variables contain a NUL.
fn encode(secrets: &Secrets) -> Vec<u8> {
    let mut passed = Vec::new();
    for text in secrets.iter().flat_map(|(name, value)| [name, value]) {
        passed.extend_from_slice(text.as_bytes());
        passed.push(0);
    }
    passed
}

fn decode(passed: &[u8]) -> Secrets {
    let mut texts = passed.split(|byte| *byte == 0).map(|text| OsString::from_vec(text.to_vec()));
    let mut secrets = Secrets::new();
    while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
        secrets.insert(name, value);
    }
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_passwords_and_tokens_are_secret() {
        for name in ["TAPEKEEPER_REDIS_PASSWORD", "TAPEKEEPER_ADMIN_TOKEN", "TAPEKEEPER_S3_SECRET_KEY"] {
            assert!(is_secret(name.as_bytes()), "{name}");
        }
        for name in ["TAPEKEEPER_CONFIG", "PATH", "PASSWORD", "OTHER_TOKEN", ON_STDIN] {
            assert!(!is_secret(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn values_arrive_byte_for_byte() {
        let pairs = [("A", &b"x=y\nz"[..]), ("B", b""), ("C", b"\xff\xfe")];
        let secrets: Secrets =
            pairs.map(|(name, value)| (OsString::from(name), OsString::from_vec(value.to_vec()))).into();
        assert_eq!(decode(&encode(&secrets)), secrets);
        assert!(decode(b"").is_empty());
    }
}
