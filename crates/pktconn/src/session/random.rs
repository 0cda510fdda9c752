//! Random bytes from the system, for ids and secrets.

use crate::error::Reason;

pub(crate) fn random<const N: usize>() -> Result<[u8; N], Reason> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(bytes)
}
