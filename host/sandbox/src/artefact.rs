//! The one `unsafe` of this crate: taking machine code for what our own compiler made.

pub(crate) use wasmtime::component::Component;

use wasmtime::Engine;

/// Compiled code, as `Engine::precompile_component` gave it: in this process, or in a child that we
/// started and whose standard output we read, or in either some time ago with the hash checked since.
///
/// There is no other way to make one: bytes from a client, the network or the database never pass
/// here. See [`crate::compile`] and [`crate::cache`].
#[derive(Clone, Debug)]
pub(crate) struct Artefact(Vec<u8>);

impl Artefact {
    /// Vouches for `bytes`. Only [`crate::compile`] and [`crate::cache`] may.
    pub(crate) fn vouched(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The code, to be kept.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Makes the code runnable. Fails if it is from another version or configuration of Wasmtime.
    pub(crate) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: the bytes must be what `precompile_component` returned, unmodified. Those that come
        // straight from the compiler are. Those that come from the cache were written by us into a
        // directory that only our user may write to, and match the SHA-256 that was written with
        // them, so neither a torn write nor a bad disk can have changed them. Wasmtime itself
        // refuses the artefacts of another version, target or configuration.
        #[expect(unsafe_code, reason = "the only one; see above")]
        unsafe {
            Component::deserialize(engine, &self.0)
        }
    }
}
