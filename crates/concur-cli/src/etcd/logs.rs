//! Logs as etcd writes them: a line of JSON an event, with `level`, `ts`, `caller` and `msg`.

use super::flags::Settings;
use serde_json::{Map, Value};
use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, UtcTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Begins to log as the settings say.
pub(super) fn start(settings: &Settings) -> Result<(), String> {
    if settings.text("logger") != "zap" {
        return Err(format!("unknown logger option \"{}\"", settings.text("logger")));
    }
    let level = match settings.text("log-level") {
        "debug" => "debug",
        "info" => "info",
        "warn" => "warn",
        "error" | "dpanic" | "panic" | "fatal" => "error",
        other => return Err(format!("unrecognized level: \"{other}\"")),
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("CONCUR_LOG").unwrap_or_else(|_| level.into());
    let outputs = settings.list("log-outputs").iter().map(|name| Output::named(name)).collect::<Result<Vec<_>, _>>()?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Outputs(outputs.into()));
    match settings.text("log-format") {
        "json" => builder.event_format(Zap).init(),
        "console" => builder.with_ansi(false).with_target(false).init(),
        other => return Err(format!("unknown log format \"{other}\"")),
    }
    Ok(())
}

/// Where lines go.
#[derive(Debug)]
enum Output {
    Stderr,
    Stdout,
    File(File),
}

impl Output {
    fn named(name: &str) -> Result<Self, String> {
        match name {
            "default" | "stderr" | "systemd/journal" => Ok(Self::Stderr),
            "stdout" => Ok(Self::Stdout),
            path => {
                let file = File::options().create(true).append(true).open(path);
                file.map(Self::File).map_err(|error| format!("cannot log to {path}: {error}"))
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Outputs(Arc<[Output]>);

impl MakeWriter<'_> for Outputs {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl io::Write for Outputs {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for output in self.0.iter() {
            // One that cannot be written to does not silence the others.
            drop(match output {
                Output::Stderr => io::stderr().write_all(line),
                Output::Stdout => io::stdout().write_all(line),
                Output::File(file) => (&*file).write_all(line),
            });
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// Writes events as zap does.
struct Zap;

impl<S, N> FormatEvent<S, N> for Zap
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> std::fmt::Result {
        let mut at = String::new();
        UtcTime::rfc_3339().format_time(&mut Writer::new(&mut at))?;
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let caller = format!("{}:{}", metadata.file().unwrap_or("?").trim_start_matches("crates/"), metadata.line().unwrap_or(0));
        let mut line = Map::new();
        line.insert("level".into(), level(*metadata.level()).into());
        line.insert("ts".into(), at.into());
        line.insert("caller".into(), caller.into());
        line.insert("msg".into(), fields.message.into());
        line.extend(fields.rest);
        writeln!(writer, "{}", Value::Object(line))
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}

/// What an event says.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.rest.insert(field.name().into(), format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.rest.insert(field.name().into(), value.into());
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.rest.insert(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.rest.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.rest.insert(field.name().into(), value.into());
    }
}
