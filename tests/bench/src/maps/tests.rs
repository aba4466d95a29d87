use super::*;

#[test]
fn a_map_is_told_from_a_program_or_link() {
    let shown = br#"{"id":7,"type":"lpm_trie","name":"mesh_ports","flags":1,"bytes_key":12,"bytes_value":4,
        "max_entries":65536,"bytes_memlock":1234,"frozen":0}"#;
    let path = PathBuf::from("mesh_ports");
    let kind = "lpm_trie".to_owned();
    let map = PinnedMap { name: "mesh_ports".into(), bytes: 1234, path: path.clone(), kind };
    assert_eq!(parse(path.clone(), shown), Some(map));
    assert_eq!(parse(path, br#"{"error":"incorrect object type: prog"}"#), None);
}
