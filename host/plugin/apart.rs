//! compiling and trying a plugin in a process of its own. Neither has a limit of time or memory inside a process, and a plugin that nobody
//! trusts yet must cost the host neither: the child has limits of the system, and is killed at a deadline.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Digest, Limits, Plugin, engine};
use crate::backoff;
use crate::clock;
use crate::config::{Compile, DEFAULT_LIMITS};
use crate::failure::{Exit, Failure};

/// The command of the program that is the child.
pub(crate) const COMMAND: &str = "judge-plugin";
/// The time of the clock in multiples of the CPU time: the child gives way to everything else, and its machine may be busy.
const PATIENCE: u32 = 5;
/// The longest pause between two looks at the child.
const LOOK: Duration = Duration::from_millis(20);
/// Limit of the answer: compiled code is some four times as large as WebAssembly.
const ANSWER: u64 = 1 << 30;
/// How many threads compile.
const THREADS: &str = "4";

/// What the child is asked, before the file's bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    config: Value,
    memory_bytes: u64,
    fuel: u64,
    output_rows: u64,
    output_bytes: u64,
    seconds: u64,
    data_bytes: u64,
}

/// What the child answers if it refuses.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    exit: u8,
    message: String,
}

/// The program that has the command.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// From now on plugins are compiled in processes of their own. Called by the program, which alone has the command for it.
pub fn enable() {
    // On Linux this is the program that runs, whatever lies at its path by now.
    let own = Path::new("/proc/self/exe");
    let program = if own.exists() { Some(own.to_owned()) } else { std::env::current_exe().ok() };
    // It may be set already, to the same.
    program.into_iter().for_each(|program| drop(PROGRAM.set(program)));
}

/// Returns the program that compiles, if it is not this process.
pub(super) fn program() -> Option<&'static Path> {
    PROGRAM.get().map(PathBuf::as_path)
}

/// Compiles the plugin in these bytes and tries its configuration, in a child of `program`. Returns the compiled component.
pub(super) fn compile(
    program: &Path,
    compile: Compile,
    bytes: &[u8],
    config: &Value,
    limits: Limits,
) -> Result<Vec<u8>, Failure> {
    let Limits { memory_bytes, fuel, output_rows, output_bytes, state_bytes: _, record_bytes: _ } = limits;
    let seconds = compile.time.as_secs().max(1);
    let data_bytes = compile.memory_bytes.saturating_add(memory_bytes);
    let question =
        Question { config: config.clone(), memory_bytes, fuel, output_rows, output_bytes, seconds, data_bytes };
    let broken =
        |error: std::io::Error| Failure::unexpected(format!("cannot run the process that compiles plugins: {error}"));
    let mut command = Command::new(program);
    command.arg(COMMAND).env_clear().env("RAYON_NUM_THREADS", THREADS);
    // What the system needs to start it, and no secret.
    command.envs(std::env::vars_os().filter(|(name, _)| name == "LD_LIBRARY_PATH"));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(broken)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (mut stdin, stdout) = stdin.zip(stdout).expect("both are pipes");
    let mut answer = Vec::new();
    let status = std::thread::scope(|scope| {
        scope.spawn(move || {
            let asked = serde_json::to_vec(&question).expect("plain data");
            // If it fails, the child has ended, and its status says why.
            let _ = [&asked[..], b"\n", bytes].iter().try_for_each(|part| stdin.write_all(part));
        });
        scope.spawn(|| drop(stdout.take(ANSWER).read_to_end(&mut answer)));
        wait(&mut child, compile.time * PATIENCE)
    });
    match (status.map_err(broken)?, answer.split_first()) {
        (Some(status), Some((b'+', compiled))) if status.success() => Ok(compiled.to_vec()),
        (Some(status), Some((b'-', refusal))) if status.success() => Err(refused(refusal)),
        (status, _) => Err(exceeded(status, compile)),
    }
}

/// Waits until it ends, or kills it and returns none.
fn wait(child: &mut Child, patience: Duration) -> std::io::Result<Option<ExitStatus>> {
    let (began, mut pause) = (clock::instant(), Duration::from_millis(1));
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if clock::since(began) >= patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        backoff::pause(pause);
        pause = (pause * 2).min(LOOK);
    }
}

fn refused(answer: &[u8]) -> Failure {
    match serde_json::from_slice::<Refusal>(answer) {
        Ok(Refusal { exit, message }) => Failure::new(Exit::of_code(exit), message),
        Err(error) => {
            Failure::unexpected(format!("cannot read the answer of the process that compiles plugins: {error}"))
        }
    }
}

fn exceeded(status: Option<ExitStatus>, Compile { time, memory_bytes }: Compile) -> Failure {
    let signal = status.and_then(|status| status.signal());
    let out_of_time = match status {
        None => true,
        Some(_) => signal == Some(libc::SIGXCPU),
    };
    Failure::plugin(if out_of_time {
        format!(
            "compiling and trying it took more than {} s of CPU time (plugin.compile_time); make it smaller, or raise the limit if you trust it",
            time.as_secs()
        )
    } else {
        let how = signal.map_or_else(|| "without an answer".to_owned(), |signal| format!("with signal {signal}"));
        format!(
            "the process that compiles and tries it ended {how}, most likely because that takes more than {memory_bytes} bytes of memory \
             (plugin.compile_memory); make it smaller, or raise the limit if you trust it"
        )
    })
}

/// The child: reads the question and the file from standard input and writes the answer to standard output.
pub fn judge() -> Result<(), Failure> {
    let broken = |error: std::io::Error| Failure::unexpected(format!("{COMMAND}: {error}"));
    let mut asked = Vec::new();
    std::io::stdin().read_to_end(&mut asked).map_err(broken)?;
    let line = asked.iter().position(|byte| *byte == b'\n').unwrap_or(asked.len());
    let question: Question = serde_json::from_slice(&asked[..line])
        .map_err(|error| Failure::config(format!("{COMMAND} is for keyfold itself, which asks it in JSON: {error}")))?;
    limit_process(&question).map_err(broken)?;
    let answer = match judged(&question, asked.split_off((line + 1).min(asked.len()))) {
        Ok(compiled) => [b"+", &compiled[..]].concat(),
        Err(Failure { exit, message, .. }) => {
            let refusal = serde_json::to_vec(&Refusal { exit: exit as u8, message }).expect("plain data");
            [b"-", &refusal[..]].concat()
        }
    };
    std::io::stdout().write_all(&answer).map_err(broken)
}

fn judged(question: &Question, bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let Question { memory_bytes, fuel, output_rows, output_bytes, .. } = *question;
    let engine = engine(1, memory_bytes)?;
    let compiled = engine::compile(&engine, &bytes)?;
    let serialized =
        compiled.serialize().map_err(|e| Failure::unexpected(format!("cannot keep what was compiled: {e:#}")));
    let limits = Limits { memory_bytes, fuel, output_rows, output_bytes, ..DEFAULT_LIMITS };
    Plugin::of_component(&engine, &compiled, (Digest::of(&bytes), bytes), &question.config, limits)?;
    serialized
}

/// Limits this process, which then ends with the one that started it.
fn limit_process(question: &Question) -> std::io::Result<()> {
    let limits = [
        // Memory that can be written, but not address space, of which the sandbox reserves far more than it uses.
        (libc::RLIMIT_DATA, question.data_bytes),
        (libc::RLIMIT_CPU, question.seconds),
        (libc::RLIMIT_CORE, 0),
    ];
    for (resource, most) in limits {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: both calls read or write one `rlimit`, which lives as long as they take.
        let set = unsafe {
            libc::getrlimit(resource, &raw mut limit);
            limit.rlim_cur = limit.rlim_max.min(most);
            libc::setrlimit(resource, &raw const limit)
        };
        if set != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    // SAFETY: they take numbers and change only this process. If they fail, it is only less polite.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 10);
        #[cfg(target_os = "linux")]
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    Ok(())
}
