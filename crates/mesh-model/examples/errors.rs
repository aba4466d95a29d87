//! Prints docs/errors.md, for `cargo xtask gen`.

fn main() {
    print!("{}", mesh_model::codes::document());
}
