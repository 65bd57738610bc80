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
    match std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok()) {
        Some(given) => lower_to(given),
        None => Ok(()),
    }
}

fn lower_to(given: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(given), hard)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_all_and_its_shims_go_back_to_what_was_given() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let given = soft.min(hard.saturating_sub(1));
        setrlimit(Resource::RLIMIT_NOFILE, given, hard).unwrap();
        assert_eq!(raise().unwrap(), hard);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
        assert_eq!(for_shim(), Some((VARIABLE, given.to_string())));
        lower_to(given).unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (given, hard));
        // A second start of what raises it remembers the first.
        raise().unwrap();
        assert_eq!(for_shim(), Some((VARIABLE, given.to_string())));
    }
}
