//! The values of `--format`: how a command prints, and how `export` writes rows.
//!
//! `export` replaces the global `--format` by its own. Clap copies the value of such a flag to the parent command, so
//! both must have one type.

use clap::ValueEnum;
use clap::builder::{EnumValueParser, TypedValueParser};

use super::output::Format;

/// How `export` writes rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RowFormat {
    /// A line of column names, then one line per row
    #[default]
    Csv,
    /// One object per line
    #[value(alias = "json")]
    Jsonl,
    /// A Parquet file: typed columns, compressed
    Parquet,
}

/// The value of `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatFlag {
    /// Of every command but `export`.
    Print(Format),
    /// Of `export`.
    Rows(RowFormat),
}

impl FormatFlag {
    /// How a command prints.
    pub fn printed(self) -> Format {
        match self {
            Self::Print(format) => format,
            Self::Rows(_) => Format::Human,
        }
    }

    /// How rows are written; `tapekeeper --format json export` writes one object per line.
    pub fn rows(self) -> RowFormat {
        match self {
            Self::Rows(format) => format,
            Self::Print(Format::Json) => RowFormat::Jsonl,
            Self::Print(Format::Human) => RowFormat::Csv,
        }
    }
}

/// Parses the flag of every command but `export`.
pub fn print_parser() -> impl TypedValueParser<Value = FormatFlag> {
    EnumValueParser::<Format>::new().map(FormatFlag::Print)
}

/// Parses the flag of `export`.
pub fn rows_parser() -> impl TypedValueParser<Value = FormatFlag> {
    EnumValueParser::<RowFormat>::new().map(FormatFlag::Rows)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn flag(arguments: &[&str]) -> Result<FormatFlag, clap::Error> {
        let cli = Cli::try_parse_from([&["tapekeeper"], arguments].concat())?;
        Ok(match cli.command {
            Some(Command::Export(args)) => args.format,
            _ => cli.format,
        })
    }

    #[test]
    fn export_has_formats_of_its_own() {
        let export = ["export", "--symbol", "BTCUSDT"];
        let given = |flags: &[&str]| flag(&[&export, flags].concat());
        assert_eq!(given(&[]).unwrap().rows(), RowFormat::Csv);
        for (name, format) in [
            ("csv", RowFormat::Csv),
            ("jsonl", RowFormat::Jsonl),
            ("json", RowFormat::Jsonl),
            ("parquet", RowFormat::Parquet),
        ] {
            assert_eq!(given(&["--format", name]).unwrap(), FormatFlag::Rows(format));
        }
        assert!(given(&["--format", "human"]).is_err());
        assert_eq!(flag(&[&["--format", "json"][..], &export].concat()).unwrap().rows(), RowFormat::Jsonl);
    }

    #[test]
    fn other_commands_print_human_or_json() {
        assert_eq!(flag(&["audit"]).unwrap(), FormatFlag::Print(Format::Human));
        assert_eq!(flag(&["audit", "--format", "json"]).unwrap(), FormatFlag::Print(Format::Json));
        assert!(flag(&["audit", "--format", "csv"]).is_err());
    }
}
