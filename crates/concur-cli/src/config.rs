//! Descriptions of systems: `concur validate`, `concur explain`, `concur config explain`.

mod values;

use crate::Program;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, Table};
use clap::{Args, CommandFactory, Subcommand};
use concur::{Document, Finding, Place, Prediction, System};
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Say everything that is wrong with a system, and what to expect of it
#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// The description, in TOML; `-` is standard input
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

impl Validate {
    pub(crate) fn run(self) -> Outcome {
        let document = Document::read(&read(&self.file)?);
        let (findings, prediction) = (document.findings(), document.prediction());
        let value = json!({
            "valid": !document.is_invalid(),
            "findings": findings.iter().map(finding_value).collect::<Vec<_>>(),
            "prediction": prediction.as_ref().map(prediction_value),
        });
        self.output.show(&value, |_| validate_text(findings, prediction.as_ref()))?;
        if document.is_invalid() { Err(Failure::silent(Exit::Invalid)) } else { Ok(()) }
    }
}

/// The text of a file, or of standard input.
pub(crate) fn read(file: &Path) -> Outcome<String> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    text.map_err(|error| Failure::new(Exit::Invalid, format!("cannot read {}: {error}", file.display())))
}

fn place_value(place: Option<Place>) -> Value {
    place.map_or(Value::Null, |place| json!({ "line": place.line, "column": place.column }))
}

fn finding_value(finding: &Finding) -> Value {
    json!({
        "code": finding.code,
        "severity": finding.severity.to_string(),
        "field": finding.field,
        "place": place_value(finding.place),
        "what": finding.what,
        "why": finding.why,
        "do": finding.fix,
    })
}

fn prediction_value(prediction: &Prediction) -> Value {
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    let latency = |latency: &concur::Latency| {
        json!({
            "region": latency.region,
            "member": latency.member,
            "write_ms": millis(latency.usual),
            "collided_write_ms": millis(latency.collided),
        })
    };
    json!({
        "voters": prediction.voters,
        "quorum": prediction.quorum,
        "failures_survived": prediction.failures_survived,
        "regions_survived": prediction.regions_survived,
        "regions_needed": prediction.regions_needed,
        "leader": prediction.leader,
        "latencies": prediction.latencies.iter().map(latency).collect::<Vec<_>>(),
    })
}

fn validate_text(findings: &[Finding], prediction: Option<&Prediction>) -> String {
    let mut text = String::new();
    for finding in findings {
        let _ = writeln!(text, "{finding}\n");
    }
    let errors = findings.iter().filter(|finding| finding.is_error()).count();
    let warnings = findings.len() - errors;
    match prediction {
        None => {
            let _ = writeln!(text, "invalid: {}, {}", counted(errors, "error"), counted(warnings, "warning"));
        }
        Some(prediction) => prediction_text(prediction, warnings, &mut text),
    }
    text
}

fn prediction_text(prediction: &Prediction, warnings: usize, text: &mut String) {
    let Prediction { voters, quorum, failures_survived, .. } = prediction;
    let _ = writeln!(text, "valid: {}", counted(warnings, "warning"));
    let _ = writeln!(text, "{quorum} of {} decide; any {failures_survived} may be lost", counted(*voters, "voter"));
    if !prediction.regions_survived.is_empty() {
        let _ = writeln!(text, "regions of which one may be lost: {}", prediction.regions_survived.join(", "));
    }
    if !prediction.regions_needed.is_empty() {
        let _ = writeln!(text, "regions that cannot be lost: {}", prediction.regions_needed.join(", "));
    }
    if let Some(leader) = &prediction.leader {
        let _ = writeln!(text, "with {leader} leading, which is nearest to all:");
    }
    if !prediction.latencies.is_empty() {
        let mut table = Table::new(&["MEMBER", "REGION", "WRITE", "COLLIDED"]);
        for latency in &prediction.latencies {
            let cells = [latency.member.clone(), latency.region.clone(), format!("{:?}", latency.usual), format!("{:?}", latency.collided)];
            table.row(cells);
        }
        text.push_str(&table.text());
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Say more about the code of an error or a warning
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Such as C020; without one, all are listed
    code: Option<String>,
    #[command(flatten)]
    output: Output,
}

impl Explain {
    pub(crate) fn run(self) -> Outcome {
        let value = |e: &concur::Explanation| json!({ "code": e.code, "title": e.title, "text": e.text });
        let Some(code) = self.code else {
            let all = Value::Array(concur::explanations().iter().map(value).collect());
            return self.output.show(&all, explanations_text);
        };
        let Some(found) = concur::explain(&code) else {
            return Err(Failure::new(Exit::Invalid, format!("there is no code `{code}`; `concur explain` lists all")));
        };
        self.output.show(&value(found), |_| explanation_text(found))
    }
}

fn explanation_text(explanation: &concur::Explanation) -> String {
    format!("{}: {}\n\n{}\n", explanation.code, explanation.title, wrapped(explanation.text))
}

fn explanations_text(wide: bool) -> String {
    if wide {
        return concur::explanations().iter().map(explanation_text).collect::<Vec<_>>().join("\n");
    }
    let mut table = Table::new(&["CODE", "MEANING"]);
    for explanation in concur::explanations() {
        table.row([explanation.code.to_owned(), explanation.title.to_owned()]);
    }
    table.text()
}

/// In lines that are read easily.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 88;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(word.to_owned());
        } else {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// Look at what configures the program
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    Explain(ConfigExplain),
}

/// Each value of a system, and where it comes from: the file and its place, or the default; and each variable that sets a flag
#[derive(Debug, Args)]
pub(crate) struct ConfigExplain {
    /// The description, in TOML; `-` is standard input
    #[arg(long, env = "CONCUR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// A value, and where it comes from.
struct Setting {
    field: String,
    value: String,
    from: String,
    place: Option<Place>,
}

impl Config {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Explain(explain) => explain.run(),
        }
    }
}

impl ConfigExplain {
    fn run(self) -> Outcome {
        let mut settings = match &self.config {
            Some(file) => from_file(file)?,
            None => from_system(&System::default(), |_| None, ""),
        };
        variables(&Program::command(), &mut settings);
        let value = |s: &Setting| json!({ "name": s.field, "value": s.value, "from": s.from, "place": place_value(s.place) });
        self.output.show(&Value::Array(settings.iter().map(value).collect()), |_| settings_text(&settings))
    }
}

fn settings_text(settings: &[Setting]) -> String {
    let mut table = Table::new(&["NAME", "VALUE", "FROM"]);
    for setting in settings {
        let from = match setting.place {
            Some(place) => format!("{}:{}:{}", setting.from, place.line, place.column),
            None => setting.from.clone(),
        };
        table.row([setting.field.clone(), setting.value.clone(), from]);
    }
    table.text()
}

fn from_file(file: &Path) -> Outcome<Vec<Setting>> {
    let document = Document::read(&read(file)?);
    let invalid = |invalid: concur::Invalid| Failure::new(Exit::Invalid, format!("{} is not valid\n{invalid}", file.display()));
    let system = document.clone().into_system().map_err(invalid)?;
    Ok(from_system(&system, |field| document.place(field), &file.display().to_string()))
}

fn from_system(system: &System, place: impl Fn(&str) -> Option<Place>, file: &str) -> Vec<Setting> {
    let setting = |(field, value): (String, String)| {
        let place = place(&field);
        let from = if place.is_some() { file } else { "default" };
        Setting { field, value, from: from.into(), place }
    };
    values::values(system).into_iter().map(setting).collect()
}

/// Every variable that is set and stands for a flag.
fn variables(command: &clap::Command, settings: &mut Vec<Setting>) {
    for argument in command.get_arguments() {
        let Some(name) = argument.get_env().and_then(|name| name.to_str()) else { continue };
        if let Some(value) = std::env::var_os(name).filter(|_| settings.iter().all(|setting| setting.field != name)) {
            let value = value.to_string_lossy().into_owned();
            settings.push(Setting { field: name.into(), value, from: "environment".into(), place: None });
        }
    }
    command.get_subcommands().for_each(|command| variables(command, settings));
}
