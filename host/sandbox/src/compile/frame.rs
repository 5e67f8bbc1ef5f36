//! How a child answers: a byte that says what comes, its length, and what comes.

use std::io;

use backstitch_core::limits;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// The component's kind, or a [`crate::Refused`], as JSON.
    Verdict,
    /// Machine code.
    Code,
    /// Why there is no machine code, as text.
    Rejected,
    /// What the component describes, or its fault, as JSON.
    Described,
    /// A [`crate::CageReport`], as JSON.
    Report,
}

impl Tag {
    const ALL: [Self; 5] = [Self::Verdict, Self::Code, Self::Rejected, Self::Described, Self::Report];

    /// None is a letter: a program that only talks is none that answers.
    fn byte(self) -> u8 {
        match self {
            Self::Verdict => 1,
            Self::Code => 2,
            Self::Rejected => 3,
            Self::Described => 4,
            Self::Report => 5,
        }
    }

    fn bytes_max(self) -> usize {
        match self {
            Self::Code => limits::ARTEFACT_BYTES_MAX,
            Self::Described => limits::DESCRIPTION_BYTES_MAX,
            Self::Verdict | Self::Rejected | Self::Report => limits::VERDICT_BYTES_MAX,
        }
    }
}

/// What a child says that is not what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadFrame {
    /// It said less than it announced, or nothing: it has ended.
    #[error("it ended in the middle of its answer: {0}")]
    Ended(#[from] io::Error),
    /// Larger than such a frame may be.
    #[error("{0} bytes")]
    TooLarge(u64),
    /// No frame at all.
    #[error("it does not answer as this version does")]
    Foreign,
}

/// Says something to the parent.
pub(super) fn write(to: &mut impl io::Write, tag: Tag, content: &[u8]) -> io::Result<()> {
    to.write_all(&[tag.byte()])?;
    to.write_all(&(content.len() as u64).to_le_bytes())?;
    to.write_all(content)?;
    to.flush()
}

/// Hears the next thing from a child.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<(Tag, Vec<u8>), BadFrame> {
    let byte = from.read_u8().await?;
    let tag = Tag::ALL.into_iter().find(|tag| tag.byte() == byte).ok_or(BadFrame::Foreign)?;
    let length = from.read_u64_le().await?;
    if length > tag.bytes_max() as u64 {
        return Err(BadFrame::TooLarge(length));
    }
    // Grows with what comes, not with what was announced.
    let mut content = Vec::new();
    from.take(length).read_to_end(&mut content).await?;
    if content.len() as u64 != length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok((tag, content))
}
