//! Weight files that are made to take memory, time or the stack: each is refused in one sentence,
//! and the program gets three times the file and 64 MiB for its data.

use crate::pickles::{Described, Pickle, archive, legacy, safetensors, zip};
use crate::table::Folder;
use dmap::model::AdmConfig;
use dmap::weights::Checkpoint;
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs `dmap info` over `file` with bounded memory; the code and phrase that it must give.
fn bounded(input: &str, file: &[u8], code: i32, phrase: &str) {
    let folder = Folder::new();
    std::fs::write(folder.path("hostile.pt"), file).unwrap();
    let kib = 3 * file.len() / 1024 + 64 * 1024;
    let start = Instant::now();
    let script = "ulimit -d \"$1\" && ulimit -c 0 && exec \"$2\" info \"$3\"";
    let out = Command::new("sh")
        .args(["-c", script, "sh", &kib.to_string(), env!("CARGO_BIN_EXE_dmap"), &folder.string("hostile.pt")])
        .output()
        .unwrap();
    let said = crate::table::text(&out);
    assert_eq!(out.status.code(), Some(code), "{input}: {said}");
    assert!(said.contains(phrase) && !said.contains("panicked"), "{input}: expected \"{phrase}\", found\n{said}");
    assert!(start.elapsed() < Duration::from_secs(20), "{input} took {:?}", start.elapsed());
}

/// The same pickle in every kind of file: stored, deflated, and as before version 1.6.
fn pickled(input: &str, pickle: &[u8], phrase: &str) {
    bounded(&format!("{input}, stored"), &archive(pickle, &[0; 16]), 2, phrase);
    bounded(&format!("{input}, deflated"), &zip(&[("data.pkl", pickle, true), ("data/0", &[0; 16], true)]), 2, phrase);
    bounded(&format!("{input}, legacy"), &legacy(pickle, &[("0", 4, &[0; 16])]), 2, phrase);
}

fn repeated(part: &[u8], times: usize) -> Vec<u8> {
    part.repeat(times)
}

fn four() -> Described<'static> {
    Described::whole("0", "FloatStorage", &[4], &[1])
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let deep = |start: &[u8], part: &[u8], end: &[u8]| {
        let times = (2 << 20) / (part.len() + end.len());
        Pickle::new().op(start).op(&repeated(part, times)).op(&repeated(end, times)).end()
    };
    pickled("tuples", &deep(b")", b"\x85", b""), "nests more than 64");
    pickled("dicts", &deep(b"}", b"X\x01\0\0\0k}", b"s"), "at a time");
    pickled("lists", &deep(b"]", b"]", b"a"), "at a time");
    pickled("marks", &deep(b"", b"(", b""), "at a time");
    pickled("tuples of two", &deep(b")", b"2\x86", b""), "nests more than 64");
    let dicts = |levels: usize| {
        let inner = Pickle::new().op(b"}").op(&repeated(b"X\x01\0\0\0k}", levels)).text("w").tensor(&four(), b"");
        inner.op(&repeated(b"s", levels + 1)).end()
    };
    pickled("65 levels", &dicts(65), "nests more than 64");
    bounded("60 levels", &archive(&dicts(60), &[0; 16]), 0, "1 tensors, 4 parameters");
    // From the top down, through the memo: every dict is closed before it is filled.
    let mut down = Pickle::new().op(b"}q\0X\x01\0\0\0k}q\x01s0");
    for i in 1..100 {
        down = down.op(&[b'h', i]).text("k").op(&[b'}', b'q', i + 1, b's', b'0']);
    }
    pickled("from the top down", &down.op(b"h\0").end(), "changes a dict that lies in another");
    let cycle = Pickle::new().op(b"}q\0").text("k").op(b"h\0s").end();
    pickled("a dict in itself", &cycle, "changes a dict that lies in another");
}

#[test]
fn shared_parts_do_not_multiply() {
    // Eight levels of dicts that hold the level below thirty times.
    let mut names = Pickle::new().dict(&[("w", four())], b"").op(b"q\0");
    for level in 0..8 {
        names = names.op(b"}");
        for key in 0..30 {
            names = names.text(&format!("{key}")).op(&[b'h', level, b's']);
        }
        names = names.op(&[b'q', level + 1]);
    }
    pickled("names", &names.end(), "more than 32768 names");
    let long = "k".repeat(1 << 20);
    let mut nested = Pickle::new().dict(&[("w", four())], b"").op(b"q\0");
    for level in 0..8 {
        nested = nested.op(b"}").text(&long).op(&[b'h', level, b's', b'q', level + 1]);
    }
    pickled("long names", &nested.end(), "a name of 1048576 bytes");
    pickled("values on the stack", &Pickle::new().op(&repeated(b"N", 8 << 20)).end(), "at a time");
    pickled("dicts one by one", &Pickle::new().op(&repeated(b"}0", 4 << 20)).end(), "more than 262144 parts");
    pickled("memo", &Pickle::new().op(b"N").op(&repeated(b"\x94", 8 << 20)).end(), "more than 262144 parts");
    // 2,000 tensors of one storage of 2 MB.
    let elements = 1 << 19;
    let all: Vec<String> = (0..2000).map(|i| format!("w{i}.w")).collect();
    let shape = [elements];
    let tensors: Vec<_> =
        all.iter().map(|n| (n.as_str(), Described::whole("0", "FloatStorage", &shape, &[1]))).collect();
    let blob = vec![0; 4 * elements as usize];
    let pickle = Pickle::new().dict(&tensors, b"").end();
    bounded("one blob", &archive(&pickle, &blob), 2, "its tensors describe 4000 MiB, but the file has only 2 MiB");
    let expanded = Described { shape: &[1 << 30, 4], strides: &[0, 1], ..four() };
    pickled("an expanded tensor", &Pickle::new().dict(&[("w", expanded)], b"").end(), "larger than its storage");
}

#[test]
fn sizes_are_checked_before_memory_is_taken() {
    let tensor = |elements: i32, shape: &[i32], strides: &[i32]| {
        let t = Described { elements, shape, strides, ..four() };
        Pickle::new().dict(&[("w", t)], b"").end()
    };
    pickled("more than its storage", &tensor(4, &[5], &[1]), "larger than its storage");
    pickled("a larger storage", &tensor(5, &[4], &[1]), "storage");
    pickled("strides", &tensor(4, &[2, 2], &[i32::MAX, 1]), "larger than its storage");
    pickled("product", &tensor(4, &[i32::MAX, i32::MAX, i32::MAX], &[1, 1, 1]), "larger than its storage");
    pickled("fewer strides", &tensor(4, &[2, 2], &[1]), "larger than its storage");
    pickled("a negative extent", &tensor(4, &[-1], &[1]), "negative extent");
    pickled("long text", b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x7fw.", "ends too early");
    // Members that inflate to far more than the file, in one piece and in many.
    let zeros = vec![0; 96 << 20];
    let pickle = Pickle::new().dict(&[("a.w", Described::whole("0", "FloatStorage", &[24 << 20], &[1]))], b"").end();
    let bomb = zip(&[("data.pkl", &pickle, false), ("data/0", &zeros, true)]);
    bounded("a large member", &bomb, 2, "that are allowed here");
    bounded("a large pickle", &zip(&[("data.pkl", &zeros, true)]), 2, "that are allowed here");
    let names: Vec<(String, String)> = (0..200).map(|i| (format!("data/{i}"), format!("w{i}.w"))).collect();
    let tensors: Vec<_> = (names.iter())
        .map(|(k, n)| (n.as_str(), Described::whole(&k[5..], "FloatStorage", &[1 << 19], &[1])))
        .collect();
    let pickle = Pickle::new().dict(&tensors, b"").end();
    let mut members: Vec<(&str, &[u8], bool)> = vec![("data.pkl", &pickle, false)];
    members.extend(names.iter().map(|(k, _)| (k.as_str(), &zeros[..2 << 20], true)));
    bounded("many members", &zip(&members), 2, "that are allowed here");
    // All members are one and the same part of the file.
    let small = members.iter().enumerate().map(|(i, &(n, b, d))| (n, if i > 1 { &b[..1] } else { b }, d));
    let mut overlapping = zip(&small.collect::<Vec<_>>());
    let entries: Vec<usize> =
        (0..overlapping.len() - 4).filter(|&i| overlapping[i..].starts_with(b"PK\x01\x02")).collect();
    for &entry in &entries[2..] {
        for field in [16..28, 42..46] {
            overlapping.copy_within(entries[1] + field.start..entries[1] + field.end, entry + field.start);
        }
    }
    bounded("overlapping members", &overlapping, 2, "that are allowed here");
    // The directory says 100 bytes where 96 MiB come out: reading stops after 100.
    let mut lying = bomb.clone();
    let entry = (0..lying.len()).rfind(|&i| lying[i..].starts_with(b"PK\x01\x02")).unwrap();
    lying[entry + 24..entry + 28].copy_from_slice(&100_u32.to_le_bytes());
    bounded("a size that lies", &lying, 2, "larger than its storage of 100 bytes");
}

#[test]
fn damaged_directories_are_refused() {
    let pickle = Pickle::new().dict(&[("a.w", four())], b"").end();
    let good = archive(&pickle, &[0; 16]);
    bounded("unchanged", &good, 0, "1 tensors");
    let end = good.len() - 22;
    let entry = (0..end).find(|&i| good[i..].starts_with(b"PK\x01\x02")).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    bounded("no end", &good[..end], 2, "its directory is missing");
    bounded("cut", &good[..good.len() / 2], 2, "not a sound zip archive");
    bounded("count", &with(end + 10, &[0xfe, 0xff]), 2, "an entry of its directory is cut off");
    bounded("64 bits that are not there", &with(end + 10, &[0xff, 0xff]), 2, "its directory is missing");
    bounded("large directory", &with(end + 12, &[0xfe, 0xff, 0xff, 0xff]), 2, "more than an archive of weights has");
    bounded("place of the directory", &with(end + 16, &[0, 0xff, 0xff, 0xfe]), 2, "its directory is cut off");
    bounded("length of a name", &with(entry + 28, &[0xff, 0xff]), 2, "cut off");
    bounded("place of a member", &with(entry + 42, &[1, 0, 0, 0]), 2, "its header is not where the directory says");
    bounded("size of a member", &with(entry + 20, &[0xfe, 0xff, 0xff, 0xff]), 2, "beyond the end");
    bounded("method", &with(entry + 10, &[99]), 2, "compressed otherwise");
    bounded("encrypted", &with(entry + 8, &[1]), 2, "it is encrypted");
    let record = [b"PK\x06\x06".to_vec(), vec![0; 20], vec![0xff; 24], vec![0; 8]].concat();
    let locator = [&b"PK\x06\x07\0\0\0\0"[..], &(end as u64).to_le_bytes(), &[1, 0, 0, 0]].concat();
    let last = [&b"PK\x05\x06\0\0\0\0"[..], &[0xff; 12], &[0, 0]].concat();
    let large = [&good[..end], &record, &locator, &last].concat();
    bounded("a count of 64 bits", &large, 2, "more than an archive of weights has");
}

#[test]
fn hostile_headers_of_safetensors_are_refused() {
    let ones = "1,".repeat(4 << 20);
    let shape = format!(r#"{{"a":{{"dtype":"F32","shape":[{ones}1],"data_offsets":[0,4]}}}}"#);
    bounded("a long shape", &safetensors(&shape, &[0; 4]), 2, "more tensors than any network");
    let entry = |i: usize| format!(r#""{i}":{{"dtype":"F32","shape":[],"data_offsets":[{},{}]}}"#, 4 * i, 4 * i + 4);
    let many = (0..33_000).map(entry).collect::<Vec<_>>().join(",");
    bounded("many tensors", &safetensors(&format!("{{{many}}}"), &vec![0; 4 * 33_000]), 2, "any network");
    let notes = (0..1 << 20).map(|i| format!(r#""{i}":"""#)).collect::<Vec<_>>().join(",");
    let notes = format!(r#"{{"__metadata__":{{{notes}}}}}"#);
    bounded("many notes", &safetensors(&notes, &[]), 2, "more tensors than any network");
    let nested = format!("{}{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    bounded("nested", &safetensors(&nested, &[]), 2, "not a sound safetensors file");
    let text = format!(r#"{{"__metadata__":{{"a":"{}"}}}}"#, "x".repeat(15 << 20));
    bounded("a long text", &safetensors(&text, &[]), 0, "0 tensors");
    let long = format!(r#"{{"{}a.w":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#, "model.".repeat(1 << 20));
    bounded("a long name", &safetensors(&long, &[0; 4]), 2, "more than any network's");
    let wrong = r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}"#;
    bounded("a product that overflows", &safetensors(wrong, &[0; 4]), 2, "not a sound safetensors file");
}

#[test]
fn changed_bytes_never_panic() {
    let folder = Folder::new();
    let rows = Described { shape: &[2, 2], strides: &[1, 2], ..four() };
    let pickle = Pickle::new().dict(&[("a.w", rows), ("b.w", four())], b"").end();
    let in_lists = Pickle::new().op(b"}q\0").text("args").op(b"](K\x01Ne}\x85\x85sh\0").end();
    let storage = [0; 16];
    let header = r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"I64","shape":[1],"data_offsets":[4,12]}}"#;
    let files = [
        archive(&pickle, &storage),
        zip(&[("data.pkl", &pickle, true), ("data/0", &storage, true)]),
        legacy(&pickle, &[("0", 4, &storage)]),
        legacy(&in_lists, &[]),
        safetensors(header, &storage[..12]),
    ];
    // A linear congruential generator: the same changes in every run.
    let mut state = 1_u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut opened = 0;
    for round in 0..5_000 {
        let mut bytes = files[round % files.len()].clone();
        for _ in 0..1 + draw(3) {
            let at = draw(bytes.len());
            bytes[at] = [0, 1, 0x7f, 0xff, b'(', b'}', b's', draw(256) as u8][draw(8)];
        }
        if draw(8) == 0 {
            bytes.truncate(draw(bytes.len()));
        }
        let path = folder.path("changed.pt");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(file) = Checkpoint::open(&path) {
            opened += 1;
            file.tensors.keys().for_each(|name| drop(file.numbers(name)));
        }
    }
    assert!(opened > 200, "only {opened} files opened: the changes test nothing");
}

/// The work on names grows with their number, not with its square.
#[test]
fn many_names_take_no_time() {
    let folder = Folder::new();
    let path = folder.path("names.safetensors");
    let entry = |name: &str, shape: &str| format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}"#);
    // A network of 12 levels of 64 blocks among about as many names as a file may have.
    let mut entries = vec![entry("time_embed.0.weight", "[0,64]"), entry("input_blocks.0.0.weight", "[64,3,0,3]")];
    for level in 0..12 {
        let blocks = (1..=64).map(|i| format!("input_blocks.{}.0.in_layers.2.weight", level * 65 + i));
        entries.extend(blocks.map(|name| entry(&name, "[64,64,0,3]")));
        entries.push(entry(&format!("input_blocks.{}.0.op.weight", level * 65 + 65), "[64,64,0,3]"));
    }
    entries.extend((entries.len()..24_000).map(|i| entry(&format!("input_blocks.{i}.1.proj"), "[0]")));
    std::fs::write(&path, safetensors(&format!("{{{}}}", entries.join(",")), &[])).unwrap();
    let start = Instant::now();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let config = AdmConfig::identify(&checkpoint).unwrap().config;
    assert_eq!((config.channel_mult.len(), config.num_res_blocks), (12, 64));
    let error = dmap::model::adm::check_file(&config, &checkpoint).unwrap_err().to_string();
    assert!(error.contains("not those of the configured network"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "a large network took {:?}", start.elapsed());

    // As many prefixes as the names have room for.
    let prefix = "net.".repeat(63);
    let entries: Vec<String> = (0..24_000).map(|i| entry(&format!("{prefix}{i}.w"), "[0]")).collect();
    std::fs::write(&path, safetensors(&format!("{{{}}}", entries.join(",")), &[])).unwrap();
    let start = Instant::now();
    assert_eq!(Checkpoint::open(&path).unwrap().tensors.len(), 24_000);
    assert!(start.elapsed() < Duration::from_secs(10), "prefixes took {:?}", start.elapsed());
}
