//! The one `unsafe` of this crate: taking machine code for what our own compiler made.

pub(crate) use wasmtime::component::Component;

use std::path::PathBuf;

use wasmtime::Engine;

/// Compiled code, as `Engine::precompile_component` gave it: in this process, or in a child that we
/// started and whose standard output we read, or in either some time ago with the hash checked since.
///
/// There is no other way to make one: bytes from a client, the network or the database never pass
/// here. See [`crate::compile`] and [`crate::cache`].
#[derive(Clone, Debug)]
pub(crate) struct Artefact(Code);

#[derive(Clone, Debug)]
enum Code {
    Bytes(Vec<u8>),
    /// Mapped, not read: what is not run takes no memory, and what is run can be read again.
    File(PathBuf),
}

impl Artefact {
    /// Vouches for `bytes`. Only [`crate::compile`] may.
    pub(crate) fn vouched(bytes: Vec<u8>) -> Self {
        Self(Code::Bytes(bytes))
    }

    /// Vouches for a file, which nobody will change: a newer one takes its name. Only [`crate::cache`] may.
    pub(crate) fn vouched_file(path: PathBuf) -> Self {
        Self(Code::File(path))
    }

    /// The code, to be kept; none: it is kept.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Code::Bytes(bytes) => Some(bytes),
            Code::File(_) => None,
        }
    }

    /// Makes the code runnable. Fails if it is from another version or configuration of Wasmtime.
    pub(crate) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: the code must be what `precompile_component` returned, unmodified. What comes straight from the
        // compiler is. What comes from the cache was written by us into a directory that only our user may write
        // to, and matched the SHA-256 that was written with it when it was looked at a moment ago, so neither a
        // torn write nor a bad disk can have changed it. A file that is mapped must not change while it is: ours
        // are written once under another name, and only replaced and removed, which leaves a mapping as it is.
        // Wasmtime itself refuses the artefacts of another version, target or configuration.
        #[expect(unsafe_code, reason = "the only one; see above")]
        unsafe {
            match &self.0 {
                Code::Bytes(bytes) => Component::deserialize(engine, bytes),
                Code::File(path) => Component::deserialize_file(engine, path),
            }
        }
    }
}
