//! What `docs/format.md` and `docs/protocol.md` show is what the code reads and writes.

use globalfs_controlplane::model::policy::PolicyFile;
use globalfs_controlplane::model::record::{ClusterRecord, MasterRecord, NodeRecord, SiteRecord};
use globalfs_controlplane::model::token::TokenRecord;
use globalfs_proto::{Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const FORMAT: &str = include_str!("../docs/format.md");
const PROTOCOL: &str = include_str!("../docs/protocol.md");

/// The JSON block that follows the paragraph which begins with the key `key`.
#[track_caller]
fn example<T: DeserializeOwned + Serialize>(key: &str) {
    let after = FORMAT.split_once(&format!("\n`{key}`")).unwrap_or_else(|| panic!("{key} is told")).1;
    let block = after.split("```json").nth(1).and_then(|rest| rest.split("```").next());
    let shown: Value = serde_json::from_str(block.expect("a block follows")).expect("the example is JSON");
    let record: T = serde_json::from_value(shown.clone()).expect("the example is a record");
    assert_eq!(serde_json::to_value(&record).expect("a record is JSON"), shown, "{key}");
}

#[test]
fn records_are_as_documented() {
    example::<ClusterRecord>("/globalfs/metadata/cluster");
    example::<SiteRecord>("/globalfs/metadata/sites/NAME");
    example::<NodeRecord>("/globalfs/metadata/nodes/SITE/NAME");
    example::<PolicyFile>("/globalfs/metadata/policies");
    example::<MasterRecord>("/globalfs/metadata/namespace/PATH");
    example::<TokenRecord>("/globalfs/metadata/tokens/ID");
}

/// The names and bytes in the rows of the table whose head begins with `head`.
fn rows(head: &str) -> Vec<(&'static str, bytes::Bytes)> {
    let table = PROTOCOL.split_once(head).expect("the table is there").1;
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = lines.map(|line| line.trim_matches('|').split_once(" | ").expect("two columns"));
    cells
        .map(|(name, hexadecimal)| {
            let digits: String = hexadecimal.chars().filter(|c| !" `|".contains(*c)).collect();
            (name.trim(), hex::decode(digits).expect("hexadecimal").into())
        })
        .collect()
}

#[test]
fn messages_are_as_documented() {
    let requests = rows("| message | bytes, hexadecimal |");
    let answers = rows("| answer | bytes, hexadecimal |");
    assert_eq!((requests.len(), answers.len()), (6, 10));
    let begins = |name: &str, text: &str| {
        let first = name.split_whitespace().next().unwrap_or_default();
        assert!(text.starts_with(first), "{name} is {text}");
    };
    for (name, frame) in requests {
        let (header, request) = Request::decode(frame.clone()).expect(name);
        assert_eq!((request.encode(header), header.deadline_ms), (frame, 30_000), "{name}");
        begins(name, &format!("{request:?}"));
    }
    for (name, frame) in answers {
        let response = Response::decode(frame.clone()).expect(name);
        assert_eq!(response.encode(), frame, "{name}");
        begins(name, &format!("{response:?}"));
    }
}

#[test]
fn limits_are_as_documented() {
    use globalfs_proto::limits::*;
    use globalfs_transport::options::*;
    let shown = |name: &str| {
        let row = PROTOCOL.lines().find(|line| line.ends_with(&format!("`{name}` |")));
        let cell = row.and_then(|row| row.split('|').nth(2)).expect(name).trim();
        let number = cell.trim_start_matches(|c: char| !c.is_ascii_digit());
        let end = number.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(number.len());
        let unit = match number[end..].trim_start() {
            rest if rest.starts_with("KiB") => 1024,
            rest if rest.starts_with("MiB") => 1024 * 1024,
            _ => 1,
        };
        number[..end].trim_end_matches(',').replace(',', "").parse::<u64>().expect(name) * unit
    };
    assert_eq!(shown("CHUNK_SIZE"), CHUNK_SIZE);
    assert_eq!(shown("MAX_CHUNKS_PER_READ"), u64::from(MAX_CHUNKS_PER_READ));
    assert_eq!(shown("MAX_HOME_ITEMS"), MAX_HOME_ITEMS as u64);
    assert_eq!(shown("MAX_REQUEST_FRAME"), MAX_REQUEST_FRAME as u64);
    assert_eq!(shown("MAX_FILES_PER_REQUEST"), MAX_FILES_PER_REQUEST as u64);
    assert_eq!(shown("MAX_PACKED_FILE"), MAX_PACKED_FILE);
    assert_eq!(shown("MAX_PACKED_BYTES"), MAX_PACKED_BYTES);
    assert_eq!(shown("PACK_TARGET"), PACK_TARGET as u64);
    assert_eq!(shown("MAX_PACK"), MAX_PACK as u64);
    assert_eq!(shown("MAX_FRAME"), MAX_FRAME as u64);
    assert_eq!(shown("LIST_PART_TARGET"), LIST_PART_TARGET as u64);
    assert_eq!(shown("MAX_LIST_PART"), MAX_LIST_PART as u64);
    assert_eq!(shown("MAX_ENTRIES_BELOW"), u64::from(MAX_ENTRIES_BELOW));
    assert_eq!(shown("MAX_ENTRIES_UNASKED"), MAX_ENTRIES_UNASKED as u64);
    assert_eq!(shown("MAX_LISTED_TARGET"), MAX_LISTED_TARGET as u64);
    assert_eq!(shown("MAX_CHANGES"), MAX_CHANGES as u64);
    assert_eq!(shown("MAX_NAMES_PER_CHANGE"), MAX_NAMES_PER_CHANGE as u64);
    assert_eq!(shown("MAX_WARM_FILES"), MAX_WARM_FILES as u64);
    assert_eq!(shown("MAX_WARM_CHUNKS"), u64::from(MAX_WARM_CHUNKS));
    assert_eq!(shown("MAX_TRACE_BYTES"), MAX_TRACE_BYTES as u64);
    assert_eq!(shown("MAX_TRACES"), MAX_TRACES as u64);
    assert_eq!(shown("MAX_DIR_ENTRIES"), MAX_DIR_ENTRIES as u64);
    assert_eq!(shown("MAX_XATTR"), MAX_XATTR as u64);
    assert_eq!(shown("STREAM_WINDOW"), u64::from(STREAM_WINDOW));
    assert_eq!(shown("RECEIVE_WINDOW"), u64::from(RECEIVE_WINDOW));
    assert_eq!(shown("SEND_WINDOW"), SEND_WINDOW);
    assert_eq!(shown("MAX_SEND_WINDOW"), MAX_SEND_WINDOW);
    assert_eq!(shown("MAX_REQUESTS_PER_CONNECTION"), u64::from(MAX_REQUESTS_PER_CONNECTION));
    assert_eq!(shown("MAX_CONNECTIONS"), MAX_CONNECTIONS as u64);
    assert_eq!(shown("REQUEST_TIMEOUT"), REQUEST_TIMEOUT.as_secs());
    assert_eq!(shown("MAX_DEADLINE"), MAX_DEADLINE.as_secs());
}
