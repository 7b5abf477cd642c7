//! What each fuzz target does with its bytes: as a user's file or text they are read, and what
//! opened is used.
//!
//! No input may make the library panic, take 5 s or allocate 1 GiB at once; and an error is one
//! line of text that a terminal shows as it is. The fuzzers call the targets, and so does the test
//! that replays the corpus.

use arbitrary::{Result as Drawn, Unstructured};
use dmap::Error;
use dmap::graph::{Graph, Shape};
use dmap::image::{Photo, ReadOptions};
use dmap::model::stable_diffusion::TextEncoder;
use dmap::model::{
    AdmConfig, ControlInfo, Model, SchedulerConfig, TextConfig, UnetConfig, VaeConfig, adm, text_encoder, unet, vae,
};
use dmap::operator::parse_task;
use dmap::sampler::preset::Preset;
use dmap::sampler::{Answer, MeasurementFile, Noise, parse_method};
use dmap::weights::{Checkpoint, open_part, write_safetensors_with};
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The name of a target's corpus, and what the target does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("safetensors", safetensors),
    ("safetensors_structured", |bytes| drawn(bytes, safetensors_structured)),
    ("pickle", pickle),
    ("pt_archive", weights),
    ("pt_archive_structured", |bytes| drawn(bytes, pt_archive_structured)),
    ("adm_config", adm_config),
    ("adm_shapes", |bytes| drawn(bytes, adm_shapes)),
    ("latent_config", latent_config),
    ("controlnet", controlnet),
    ("shards", shards),
    ("pictures", pictures),
    ("masks_and_kernels", masks_and_kernels),
    ("tasks_and_methods", tasks_and_methods),
    ("tokenizer", tokenizer),
    ("measurement", measurement),
    ("preset", preset),
    ("matrices", matrices),
    ("networks", networks),
];

/// Draws an input out of the bytes, as far as they reach.
fn drawn(bytes: &[u8], target: fn(&mut Unstructured) -> Drawn<()>) {
    let _ = target(&mut Unstructured::new(bytes));
}

/// More elements of one tensor are not read, nor more tensors of one file.
const MOST_ELEMENTS: usize = 1 << 18;
const MOST_TENSORS: usize = 32;

/// A text for people has to be one line without control characters.
fn check_sentence(text: &str) {
    assert!(!text.trim().is_empty(), "a message without words");
    assert!(!text.chars().any(char::is_control), "a message that a terminal obeys: {text:?}");
    assert!(text.len() <= 40_000, "a message of {} bytes", text.len());
}

/// What opened, or none where the error is a proper one.
fn opened<T>(result: Result<T, Error>) -> Option<T> {
    result.map_err(|e| check_sentence(&e.to_string())).ok()
}

thread_local! {
    static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
}

/// A file of the process' folder.
fn path(name: &str) -> PathBuf {
    FOLDER.with(|folder| folder.path().join(name))
}

/// Writes a file of the process' folder.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = path(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(&path, bytes).expect("a file");
    path
}

/// Reads what a weight file holds.
fn use_weights(checkpoint: &Checkpoint) {
    let small = |name: &&String| checkpoint.tensors[*name].shape.iter().product::<usize>() <= MOST_ELEMENTS;
    for name in checkpoint.tensors.keys().filter(small).take(MOST_TENSORS) {
        opened(checkpoint.values(name));
        opened(checkpoint.numbers(name));
    }
    let _ = checkpoint.parameters();
    opened(ControlInfo::of_file(checkpoint));
    use_as_adm(checkpoint);
}

/// Asks for the network that a weight file is of.
fn use_as_adm(checkpoint: &Checkpoint) {
    let Some(found) = opened(AdmConfig::identify(checkpoint)) else { return };
    found.warning.iter().for_each(|warning| check_sentence(warning));
    opened(adm::check_file(&found.config, checkpoint));
}

fn weights(bytes: &[u8]) {
    let found = opened(Checkpoint::open(&file("weights.pt", bytes)));
    found.iter().for_each(use_weights);
}

fn safetensors(bytes: &[u8]) {
    let found = opened(Checkpoint::open(&file("weights.safetensors", bytes)));
    found.iter().for_each(use_weights);
    opened(Checkpoint::of_bytes("weights", bytes)).iter().for_each(use_weights);
}

/// A safetensors file of this header and so many bytes.
fn safetensors_file(header: &Value, bytes: usize) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0x3c; bytes]].concat()
}

/// One of these mostly, else any.
fn one_of(u: &mut Unstructured, known: &[&str]) -> Drawn<String> {
    match u.ratio(7, 8)? {
        true => Ok(u.choose(known)?.to_string()),
        false => Ok(u.arbitrary::<&str>()?.to_string()),
    }
}

/// The right number mostly, else one beside it, or any.
fn about(u: &mut Unstructured, right: u64) -> Drawn<u64> {
    Ok(match u.int_in_range(0..=31)? {
        0 => u.arbitrary()?,
        1 => right.wrapping_add(1),
        2 => right.wrapping_sub(1),
        3 => u.arbitrary::<u32>()?.into(),
        4 => *u.choose(&[0, 1 << 31, 1 << 32, 1 << 62, 1 << 63, u64::MAX, u32::MAX as u64])?,
        _ => right,
    })
}

const NAMES: [&str; 10] = [
    "w",
    "a.weight",
    "y",
    "state",
    "module.a.weight",
    "ema.a.weight",
    "model.a.weight",
    "betas",
    "time_embed.0.weight",
    "input_blocks.0.0.weight",
];

fn safetensors_structured(u: &mut Unstructured) -> Drawn<()> {
    const TYPES: [(&str, u64); 14] = [
        ("F64", 8),
        ("F32", 4),
        ("F16", 2),
        ("BF16", 2),
        ("I64", 8),
        ("I32", 4),
        ("I16", 2),
        ("I8", 1),
        ("U64", 8),
        ("U8", 1),
        ("BOOL", 1),
        ("F8_E4M3", 1),
        ("C64", 8),
        ("F4", 1),
    ];
    let (mut header, mut end) = (Map::new(), 0_u64);
    for _ in 0..u.int_in_range(0..=6)? {
        let name = one_of(u, &NAMES)?;
        let (dtype, width) = *u.choose(&TYPES)?;
        let rank = u.int_in_range(0..=5)?;
        let mut shape = Vec::new();
        for _ in 0..rank {
            let small = u.int_in_range(0..=4)?;
            shape.push(about(u, small)?);
        }
        let bytes = shape.iter().fold(width, |bytes, &n| bytes.wrapping_mul(n));
        let (from, to) = (about(u, end)?, about(u, end.wrapping_add(bytes))?);
        end = to;
        header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [from, to]}));
    }
    if u.ratio(1, 4)? {
        let key = one_of(u, &["config", "task", "noise"])?;
        header.insert("__metadata__".into(), json!({key: u.arbitrary::<&str>()?}));
    }
    let bytes = about(u, end)?.min(1 << 12);
    safetensors(&safetensors_file(&Value::Object(header), bytes as usize));
    Ok(())
}

/// A member of a zip archive, and what its headers say of it.
struct Member {
    name: Vec<u8>,
    method: u16,
    flags: u16,
    /// Bytes as they lie in the archive.
    stored: Vec<u8>,
    /// Bytes in the archive, bytes once inflated, place of the local header.
    said: [Option<u64>; 3],
    /// Bytes once inflated.
    full: u64,
    /// Sizes stand in the extra field.
    is_large: bool,
}

impl Member {
    fn plain(name: &str, bytes: &[u8]) -> Member {
        let (stored, full) = (bytes.to_vec(), bytes.len() as u64);
        Member { name: name.into(), method: 0, flags: 0, stored, said: [None; 3], full, is_large: false }
    }
}

/// A zip archive; `end` is what its last record says: entries, bytes and place of the directory.
fn zip(members: &[Member], end: [Option<u64>; 3]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for m in members {
        let at = m.said[2].unwrap_or(file.len() as u64);
        file.extend(b"PK\x03\x04\x14\0");
        file.extend([m.flags.to_le_bytes(), m.method.to_le_bytes()].concat());
        file.extend([0; 16]);
        file.extend((m.name.len() as u16).to_le_bytes());
        file.extend([0; 2]);
        file.extend(&m.name);
        file.extend(&m.stored);
        let sizes = [m.said[1].unwrap_or(m.full), m.said[0].unwrap_or(m.stored.len() as u64), at];
        let [full, stored, header] = sizes.map(|size| if m.is_large { u32::MAX } else { size as u32 }.to_le_bytes());
        let mut extra = Vec::new();
        if m.is_large {
            extra.extend(b"\x01\0\x18\0");
            extra.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
        }
        directory.extend(b"PK\x01\x02\x14\0\x14\0");
        directory.extend([m.flags.to_le_bytes(), m.method.to_le_bytes()].concat());
        directory.extend([0; 8]);
        directory.extend([stored, full].concat());
        directory.extend([(m.name.len() as u16).to_le_bytes(), (extra.len() as u16).to_le_bytes()].concat());
        directory.extend([0; 10]);
        directory.extend(header);
        directory.extend(&m.name);
        directory.extend(extra);
    }
    let at = file.len();
    file.extend(&directory);
    let [count, bytes, at] = [members.len(), directory.len(), at].map(|n| n as u64);
    let (count, bytes, at) = (end[0].unwrap_or(count), end[1].unwrap_or(bytes), end[2].unwrap_or(at));
    file.extend(b"PK\x05\x06\0\0\0\0\0\0");
    file.extend((count as u16).to_le_bytes());
    file.extend([bytes, at].map(|n| (n as u32).to_le_bytes()).concat());
    file.extend([0; 2]);
    file
}

/// The bytes are the pickle of an archive, and that of a file of PyTorch before version 1.6, each
/// with 64 bytes of storage.
fn pickle(bytes: &[u8]) {
    let storage: Vec<u8> = (0..16).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let members = [Member::plain("archive/data.pkl", bytes), Member::plain("archive/data/0", &storage)];
    weights(&zip(&members, [None; 3]));
    let mut legacy = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    legacy.extend(bytes);
    legacy.extend(b"\x80\x02](X\x01\0\0\x000e.");
    legacy.extend(16_u64.to_le_bytes());
    legacy.extend(&storage);
    weights(&legacy);
}

/// A pickle of `{"w": tensor}` as `torch.save` writes it, its storage `key` of type `storage`.
fn tensor_pickle(storage: &str, key: &str, elements: i32, offset: i32, shape: [i32; 2], strides: [i32; 2]) -> Vec<u8> {
    let text = |t: &str| [b"X", &(t.len() as u32).to_le_bytes()[..], t.as_bytes()].concat();
    let int = |n: i32| [b"J", &n.to_le_bytes()[..]].concat();
    let pair = |[a, b]: [i32; 2]| [b"(", &int(a)[..], &int(b), b"t"].concat();
    [
        b"\x80\x02}",
        &text("w.weight")[..],
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage"),
        format!("ctorch\n{storage}\n").as_bytes(),
        &text(key),
        &text("cpu"),
        &int(elements),
        b"tQ",
        &int(offset),
        &pair(shape),
        &pair(strides),
        b"\x89}tRs.",
    ]
    .concat()
}

fn pt_archive_structured(u: &mut Unstructured) -> Drawn<()> {
    let mut members = Vec::new();
    for i in 0..u.int_in_range(1..=5)? {
        const KNOWN: [&str; 7] =
            ["a/data.pkl", "a/data/0", "a/data/1", "a/byteorder", "a/version", "a/constants.pkl", "data.pkl"];
        let right = KNOWN[i % 3].to_string();
        let name = if u.ratio(3, 4)? { right } else { one_of(u, &KNOWN)? };
        let bytes = if name.ends_with("data.pkl") && u.ratio(7, 8)? {
            let storage = *u.choose(&["FloatStorage", "HalfStorage", "LongStorage", "ByteStorage", "BoolStorage"])?;
            let key = *u.choose(&["0", "1", "2"])?;
            let mut n = || -> Drawn<i32> {
                let small = u.int_in_range(0..=4)?;
                Ok(about(u, small)? as i32)
            };
            tensor_pickle(storage, key, n()?, n()?, [n()?, n()?], [n()?, n()?])
        } else {
            u.arbitrary::<&[u8]>()?.to_vec()
        };
        let mut member = Member::plain(&name, &bytes);
        if u.ratio(1, 3)? {
            let mut deflater = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            deflater.write_all(&bytes).expect("memory");
            (member.method, member.stored) = (8, deflater.finish().expect("memory"));
        }
        if u.ratio(1, 16)? {
            (member.method, member.flags) = (u.arbitrary()?, u.arbitrary()?);
        }
        member.is_large = u.ratio(1, 4)?;
        if u.ratio(1, 4)? {
            let (stored, full) = (member.stored.len() as u64, member.full);
            member.said = [Some(about(u, stored)?), Some(about(u, full)?), None];
        }
        if u.ratio(1, 16)? {
            member.said[2] = Some(about(u, 0)?);
        }
        members.push(member);
    }
    let mut end = [None; 3];
    if u.ratio(1, 8)? {
        let count = members.len() as u64;
        end = [Some(about(u, count)?), None, None];
        end[u.int_in_range(1..=2)?] = Some(u.arbitrary()?);
    }
    weights(&zip(&members, end));
    Ok(())
}

thread_local! {
    static ADM: RefCell<Checkpoint> = {
        let bytes = include_bytes!("../../tests/data/adm_a.safetensors");
        RefCell::new(Checkpoint::of_bytes("adm", bytes).expect("a sound file"))
    };
}

/// The bytes are the JSON of a configuration beside fixed weights.
fn adm_config(bytes: &[u8]) {
    ADM.with_borrow_mut(|checkpoint| {
        checkpoint.metadata.insert("config".into(), String::from_utf8_lossy(bytes).into_owned());
        use_as_adm(checkpoint);
    });
}

/// A header with the names of an ADM UNet and any extents. One extent of every tensor is 0, so that
/// the file needs no values.
fn adm_shapes(u: &mut Unstructured) -> Drawn<()> {
    let mut header = Map::new();
    let mut put = |name: String, shape: &[u64]| {
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}));
    };
    let channels = about(u, 32)?;
    let image_channels = about(u, 3)?;
    put("time_embed.0.weight".into(), &[0, channels]);
    put("input_blocks.0.0.weight".into(), &[channels, image_channels, 0, 3]);
    put("input_blocks.1.0.emb_layers.1.weight".into(), &[about(u, channels.wrapping_mul(2))?, 0]);
    put("out.2.weight".into(), &[about(u, image_channels.wrapping_mul(2))?, channels, 0, 3]);
    if u.ratio(1, 4)? {
        put("label_emb.weight".into(), &[about(u, 10)?, 0]);
    }
    let (levels, blocks) = (about(u, 2)?.min(14), about(u, 1)?.min(66));
    let (is_strided, has_up_blocks) = (u.arbitrary::<bool>()?, u.arbitrary::<bool>()?);
    let mut i = 0;
    for level in 0..levels {
        let width = about(u, channels.wrapping_mul(level + 1))?;
        let attention = u.ratio(1, 2)?;
        for _ in 0..blocks {
            i += 1;
            put(format!("input_blocks.{i}.0.in_layers.2.weight"), &[width, channels, 0, 3]);
            if attention {
                put(format!("input_blocks.{i}.1.norm.weight"), &[0]);
            }
        }
        i += 1;
        if level + 1 < levels && is_strided {
            put(format!("input_blocks.{i}.0.op.weight"), &[width, width, 0, 3]);
        } else if level + 1 < levels && has_up_blocks {
            put(format!("input_blocks.{i}.0.in_layers.2.weight"), &[width, width, 0, 3]);
        }
    }
    if has_up_blocks {
        put(
            format!("output_blocks.{}.{}.in_layers.2.weight", about(u, blocks)?, u.int_in_range(0..=3)?),
            &[0, 0, 0, 3],
        );
    }
    for _ in 0..u.int_in_range(0..=3)? {
        const OTHERS: [&str; 6] = [
            "input_blocks.2.0.in_layers.2.weight",
            "input_blocks.1.0.op.weight",
            "out.2.positional_embedding",
            "out.2.weight",
            "time_embed.0.weight",
            "label_emb.weight",
        ];
        let rank = u.int_in_range(0..=5)?;
        let mut shape = vec![0];
        for _ in 0..rank {
            shape.push(about(u, 4)?);
        }
        put(one_of(u, &OTHERS)?, &shape);
    }
    weights(&safetensors_file(&Value::Object(header), 0));
    Ok(())
}

/// The first byte says which part of a latent model the others configure. The graph of a part that
/// is configured can be built, or says why not.
fn latent_config(bytes: &[u8]) {
    let Some((kind, text)) = bytes.split_first() else { return };
    let (path, text) = (Path::new("config.json"), &*String::from_utf8_lossy(text));
    let mut g = Graph::new();
    match kind % 4 {
        0 => {
            let Some(config) = opened(UnetConfig::of_text(path, text)) else { return };
            let size = config.size_multiple();
            let x = g.input("x", Shape::new(1, size, size, config.in_channels));
            let t = g.input("t", Shape::rows(1, 1));
            let context = g.input("context", Shape::new(1, 1, 1, config.cross_attention_dim));
            opened(unet::unet(&mut g, &config, x, t, context, None));
        }
        1 => {
            let Some(config) = opened(VaeConfig::of_text(path, text)) else { return };
            let x = g.input("x", Shape::new(1, config.factor(), config.factor(), 3));
            let z = g.input("z", Shape::new(1, 1, 1, config.latent_channels));
            opened(vae::encoder(&mut g, &config, x));
            opened(vae::decoder(&mut g, &config, z));
        }
        2 => {
            let Some(config) = opened(TextConfig::of_text(path, text)) else { return };
            let tokens = g.input("tokens", Shape::new(1, 1, 1, 1));
            opened(text_encoder::text_encoder(&mut g, &config, tokens));
        }
        _ => drop(opened(SchedulerConfig::of_text(path, text))),
    }
}

/// The bytes are the configuration of a ControlNet: of one of Stable Diffusion in its folder, and of
/// one of a pixel model, with what it was trained for, in the metadata of its file.
fn controlnet(bytes: &[u8]) {
    let known = |name| Model::architecture(name).expect("a known architecture");
    let folder = file("controlnet/config.json", bytes);
    let folder = folder.parent().expect("a folder");
    opened(ControlInfo::of_folder(folder));
    opened(known("sd1").with_control(folder, 1.0));
    let text = String::from_utf8_lossy(bytes);
    let tensor = json!({"dtype": "F16", "shape": [1], "data_offsets": [0, 2]});
    let header = json!({"__metadata__": {"config": text, "dmap_cse": text}, "controlnet_mid_block.weight": tensor});
    let path = file("controlnet.safetensors", &safetensors_file(&header, 2));
    opened(Checkpoint::open(&path)).iter().for_each(use_weights);
    opened(known("photo").with_control(&path, 1.0));
}

/// The bytes are the index of shards in a folder with one.
fn shards(bytes: &[u8]) {
    let shard = path("shards/one.safetensors");
    if !shard.exists() {
        let header = json!({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}});
        file("shards/one.safetensors", &safetensors_file(&header, 8));
    }
    file("shards/model.safetensors.index.json", bytes);
    let parts = opened(open_part(&path("shards"), "model")).unwrap_or_default();
    parts.iter().for_each(use_weights);
}

/// The length of the file says which options it is read with.
fn pictures(bytes: &[u8]) {
    let options = ReadOptions::default()
        .most_pixels(1 << 18)
        .crop((bytes.len() % 3 == 0).then_some((5, 3)))
        .allow_truncated(bytes.len() % 2 == 0);
    let Some(photo) = opened(Photo::read_with(&file("picture", bytes), &options)) else { return };
    photo.note.iter().for_each(|note| check_sentence(note));
    let (width, height, values) = (photo.picture.width, photo.picture.height, &photo.picture.values);
    assert!(width > 0 && height > 0 && values.len() == width * height * 3, "{width}x{height}, {} values", values.len());
    assert!(values.iter().all(|v| (-1.0..=1.0).contains(v)), "a value outside of [-1, 1]");
}

/// The image behind a small measurement.
const IMAGE: Shape = Shape { n: 1, h: 16, w: 16, c: 3 };

/// An operator that was made can be written as a task again, and its state passes its own check.
fn use_task(task: &str) {
    let Some(operator) = opened(parse_task(task)) else { return };
    opened(operator.check(IMAGE));
    let Some(state) = opened(operator.draw_state(IMAGE, 3)) else { return };
    if let Some(shape) = operator.state_shape(IMAGE) {
        assert_eq!(state.len(), shape.numel(), "{task}: the state of {shape}");
        opened(operator.check_state(IMAGE, &state)).expect("a state of its own");
    }
    if !task.contains("FILE") && !task.contains("=/") {
        let written = operator.task();
        let again = opened(parse_task(&written)).expect("the task that it writes");
        assert_eq!(again.task(), written, "{task}");
    }
}

/// The bytes are the picture of a mask and of a kernel.
fn masks_and_kernels(bytes: &[u8]) {
    let picture = file("mask", bytes);
    for task in ["inpaint-mask:mask", "motion-blur:kernel"] {
        use_task(&format!("{task}={}", picture.display()));
    }
}

fn matrices(bytes: &[u8]) {
    use_task(&format!("matrix:file={},width=3,height=2", file("matrix.mtx", bytes).display()));
}

/// The bytes are the JSON file. Its weights, `net.safetensors`, are sound.
fn networks(bytes: &[u8]) {
    let weights = path("net.safetensors");
    let tensors = [
        ("head.weight", vec![4, 3, 3, 3], &[0.1; 108][..]),
        ("head.bias", vec![4], &[0.0; 4]),
        ("tail.weight", vec![1, 4, 1, 1], &[0.5; 4]),
        ("tail.bias", vec![1], &[0.2]),
    ];
    write_safetensors_with(&weights, &tensors, &[]).expect("a file");
    use_task(&format!("network:file={}", file("net.json", bytes).display()));
}

/// Noise that was read is written so that it is read again.
fn tasks_and_methods(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    use_task(text);
    opened(parse_method(text));
    if let Some(noise) = opened(text.parse::<Noise>()) {
        assert_eq!(opened(noise.to_string().parse::<Noise>()), Some(noise), "{text}");
    }
}

thread_local! {
    static ENCODER: TextEncoder = {
        file("encoder/text_encoder/config.json", include_bytes!("../../tests/data/latent_sd2/text_encoder/config.json"));
        let weights = include_bytes!("../../tests/data/latent_sd2/text_encoder/model.safetensors");
        file("encoder/text_encoder/model.safetensors", weights);
        TextEncoder::open(&path("encoder")).expect("a sound text encoder")
    };
}

/// The bytes are `tokenizer.json`, or, where a zero byte stands in them, `vocab.json` and
/// `merges.txt`.
fn tokenizer(bytes: &[u8]) {
    let folder = match bytes.iter().position(|&b| b == 0) {
        None => {
            file("whole/tokenizer/tokenizer.json", bytes);
            path("whole")
        }
        Some(at) => {
            file("split/tokenizer/vocab.json", &bytes[..at]);
            file("split/tokenizer/merges.txt", &bytes[at + 1..]);
            path("split")
        }
    };
    ENCODER.with(|encoder| {
        let tokens = opened(encoder.tokens(&folder, "A photo, of  3 cats' <|endoftext|> \u{e9}\u{4e00}"));
        tokens.iter().for_each(|tokens| assert_eq!(tokens.len(), 7, "tokens up to the longest text"));
    });
}

fn measurement(bytes: &[u8]) {
    let Some(found) = opened(MeasurementFile::read(&file("measurement.safetensors", bytes))) else { return };
    for task in ["inpaint-random", "motion-blur:size=5", "sr2"] {
        let operator = parse_task(task).expect("a task");
        let operator = operator.as_ref();
        opened(found.check_task(operator));
        let image = found.image_shape(operator);
        opened(operator.check(image));
        opened(found.state(operator, image));
    }
}

fn preset(bytes: &[u8]) {
    let Some(found) = opened(Preset::read(&file("preset.json", bytes))) else { return };
    let prior = Model::architecture("adm-256").expect("a known architecture").network.prior();
    for (task, answer) in [("sr4", Answer::Map), ("gaussian-blur", Answer::Sample)] {
        let operator = parse_task(task).expect("a task");
        if let Some(row) = opened(found.row(operator.as_ref(), Noise::Gaussian(0.025), answer)) {
            opened(row.settings(&prior).and_then(|settings| settings.check(&prior, operator.as_ref())));
        }
    }
}
