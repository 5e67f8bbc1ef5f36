//! Rebuilds the crate when a migration is added: `migrate!` embeds the files it found.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
