//! The limit of open files. This process needs many (a connection each, and more for what is proxied) and takes all it
//! may have; containers get what this process was started with. Called by the executable and, for shims, by `runtime`.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Names the soft limit that a shim gives itself and thereby its containers.
const VARIABLE: &str = "RK_OPEN_FILES";

/// The soft limit that this process was started with, once it was raised.
static GIVEN: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit to the hard one, and says what it is.
///
/// # Errors
/// When the kernel refuses.
pub fn raise() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let given = *GIVEN.get_or_init(|| soft);
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        tracing::debug!(given, now = hard, "limit of open files raised");
    }
    Ok(hard)
}

/// The environment of a shim: the limit that it is to go back to.
pub(crate) fn for_shim() -> Option<(&'static str, String)> {
    GIVEN.get().map(|given| (VARIABLE, given.to_string()))
}

/// Goes back to the limit that the runtime's process was started with.
pub(crate) fn lower() -> io::Result<()> {
    let Some(given) = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok()) else { return Ok(()) };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(given), hard)?;
    Ok(())
}
