use super::*;

#[test]
fn the_llvm_of_a_program_is_the_one_it_is_linked_with() {
    assert_eq!(linked_llvm(b"\0libc.so.6\0libLLVM.so.22.1\0"), Some(22));
    assert_eq!(linked_llvm(b"\0libLLVM-19.so\0"), Some(19));
}

#[test]
fn a_mention_of_llvm_that_is_no_library_is_passed_over() {
    assert_eq!(linked_llvm(b"cannot find libLLVM anywhere\0libLLVM.so.23.1\0"), Some(23));
    assert_eq!(linked_llvm(b"statically linked"), None);
}

#[test]
fn a_linker_reads_what_its_own_and_older_compilers_write() {
    let linker = Linker { path: PathBuf::new(), llvm: Some(22) };
    assert!(linker.understands(22) && linker.understands(21) && !linker.understands(23));
}
