//! Frames between member processes: who asks, and how long it is; an answer has its length only.

use std::io;
use std::path::{Path, PathBuf};

use storage::{Bytes, MAX_RPC_BYTES, MemberId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// In place of a length: the member could not be reached.
const UNREACHABLE: u32 = u32::MAX;

/// Where a member takes requests.
pub(super) fn door(run: &Path, member: MemberId) -> PathBuf {
    run.join(format!("member-{member}"))
}

/// Where one member finds another: a link that the driver can cut.
pub(super) fn link(run: &Path, from: MemberId, to: MemberId) -> PathBuf {
    run.join(format!("link-{from}-{to}"))
}

/// Where a member takes clients.
pub(super) fn counter(run: &Path, member: MemberId) -> PathBuf {
    run.join(format!("client-{member}"))
}

async fn body(stream: &mut (impl AsyncRead + Unpin), length: u32) -> io::Result<Bytes> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_RPC_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

pub(super) async fn ask(stream: &mut (impl AsyncWrite + Unpin), from: MemberId, request: &[u8]) -> io::Result<()> {
    stream.write_u64_le(from).await?;
    stream.write_u32_le(length(request)?).await?;
    stream.write_all(request).await
}

pub(super) async fn asked(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(MemberId, Bytes)> {
    let from = stream.read_u64_le().await?;
    let length = stream.read_u32_le().await?;
    Ok((from, body(stream, length).await?))
}

/// Nothing stands for a member that could not be reached.
pub(super) async fn answer(stream: &mut (impl AsyncWrite + Unpin), answer: Option<&[u8]>) -> io::Result<()> {
    match answer {
        Some(answer) => {
            stream.write_u32_le(length(answer)?).await?;
            stream.write_all(answer).await
        }
        None => stream.write_u32_le(UNREACHABLE).await,
    }
}

pub(super) async fn answered(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    match stream.read_u32_le().await? {
        UNREACHABLE => Ok(None),
        length => body(stream, length).await.map(Some),
    }
}
