//! Files that are damaged, hostile or of another model are refused in one sentence that names what
//! is wrong.

use dmap::model::Model;
use dmap::weights::Checkpoint;
use std::io::Write;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Writes `bytes` as a file called `name`; the error of opening it as a model.
fn refusal(name: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let error = Model::open(&path).map(|_| ()).expect_err(name);
    assert_eq!(error.kind(), dmap::error::ErrorKind::BadInput);
    let message = error.to_string();
    assert!(message.contains(name) && !message.contains('\n'), "{message}");
    message
}

/// A safetensors file with this JSON header and so many bytes of data.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn damaged_safetensors_are_refused() {
    let good = std::fs::read(data("adm_a.safetensors")).unwrap();
    let contains = |bytes: &[u8], words: &str| {
        let message = refusal("x.safetensors", bytes);
        assert!(message.contains(words), "{message}");
    };
    contains(&[], "empty");
    contains(&good[..good.len() - 10], "sound safetensors");
    contains(&good[..100], "sound safetensors");
    contains(&good[..5], "sound safetensors");
    // A header longer than the file, and one that claims more than any machine has.
    contains(&safetensors("{}", 0)[..9], "sound safetensors");
    contains(&[0xff; 64], "sound safetensors");
    let tensor = |offsets: &str| format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#);
    contains(&safetensors(&tensor("[0,8]"), 4), "sound safetensors");
    contains(&safetensors(&tensor("[4,12]"), 12), "sound safetensors");
    contains(&safetensors(&tensor("[8,0]"), 8), "sound safetensors");
    let two = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    contains(&safetensors(two, 12), "sound safetensors");
    contains(&safetensors("not json", 0), "sound safetensors");
    contains(&safetensors(&tensor("[0,8]"), 8), "not an ADM UNet");
}

/// The file `a`, changed: names and values of its tensors by `edit`.
fn edited(edit: impl Fn(&mut Vec<(String, Vec<usize>, Vec<f32>)>)) -> String {
    let file = Checkpoint::open(&data("adm_a.safetensors")).unwrap();
    let all = file.tensors.iter().map(|(n, t)| (n.clone(), t.shape.clone(), file.values(n).unwrap()));
    let mut tensors: Vec<_> = all.collect();
    edit(&mut tensors);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edited.safetensors");
    std::fs::write(path.with_extension("json"), &file.metadata["config"]).unwrap();
    let views: Vec<_> = tensors.iter().map(|(n, s, v)| (n.as_str(), s.clone(), &v[..])).collect();
    dmap::weights::write_safetensors(&path, &views).unwrap();
    let model = Model::open(&path);
    // Values are read when the weights are asked for.
    let message = match model {
        Ok(m) => tensors
            .iter()
            .filter_map(|(n, s, _)| {
                let shape = match s[..] {
                    [n, c, h, w] => dmap::graph::Shape::new(n, h, w, c),
                    [n, c] | [n, c, 1] => dmap::graph::Shape::new(n, 1, 1, c),
                    _ => dmap::graph::Shape::vector(s[0]),
                };
                m.weights.get(n, shape).err()
            })
            .map(|e| e.to_string())
            .next(),
        Err(e) => Some(e.to_string()),
    };
    message.unwrap_or_default()
}

#[test]
fn missing_unexpected_misshaped_and_damaged_tensors_are_named() {
    assert_eq!(edited(|_| ()), "", "unchanged, the file opens");
    let missing = edited(|t| t.retain(|t| t.0 != "middle_block.1.qkv.bias"));
    assert!(missing.contains("1 missing (middle_block.1.qkv.bias)"), "{missing}");
    let extra = edited(|t| t.push(("surprise".into(), vec![1], vec![0.0])));
    assert!(extra.contains("1 unexpected (surprise)"), "{extra}");
    let shape = edited(|t| {
        let bias = t.iter_mut().find(|t| t.0 == "out.2.bias").unwrap();
        *bias = ("out.2.bias".into(), vec![5], vec![0.0; 5]);
    });
    assert!(shape.contains("out.2.bias") && shape.contains("[5]"), "{shape}");
    let nan = edited(|t| t.iter_mut().find(|t| t.0 == "out.2.weight").unwrap().2[7] = f32::NAN);
    assert!(nan.contains("out.2.weight holds NaN at position 7"), "{nan}");
}

#[test]
fn harmless_extras_and_prefixes_are_accepted() {
    for prefix in ["model.", "ema.", "module."] {
        let message = edited(|t| {
            t.iter_mut().for_each(|t| t.0 = format!("{prefix}{}", t.0));
        });
        // Only the lookup by the prefixed name fails here: the model itself opened.
        assert!(message.contains("is missing") || message.is_empty(), "{message}");
        assert!(!message.contains("unexpected"), "{message}");
    }
    let buffers = edited(|t| {
        t.push(("sqrt_alphas_cumprod".into(), vec![4], vec![0.0; 4]));
        t.push(("sqrt_1m_alphas_cumprod".into(), vec![4], vec![0.0; 4]));
    });
    assert!(!buffers.contains("unexpected"), "{buffers}");
}

/// A PyTorch archive around this pickle, with one storage of 16 bytes.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", stored).unwrap();
    zip.write_all(pickle).unwrap();
    zip.start_file("archive/data/0", stored).unwrap();
    zip.write_all(&[0; 16]).unwrap();
    zip.finish().unwrap().into_inner()
}

/// {"w": tensor of `elements` values from storage 0}
fn tensor_pickle(offset: u8, extent: u8, elements: u8) -> Vec<u8> {
    let mut p = b"\x80\x02}X\x01\x00\x00\x00w".to_vec();
    p.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu");
    p.extend([b'K', elements, b't', b'Q', b'K', offset, b'K', extent, 0x85, b'K', 1, 0x85, 0x89]);
    p.extend(b"ccollections\nOrderedDict\n)RtRs.");
    p
}

#[test]
fn a_hostile_pickle_is_refused_and_not_run() {
    let attack = refusal("x.pt", &archive(b"\x80\x02cos\nsystem\nX\x0b\x00\x00\x00touch /tmp/x\x85R."));
    assert!(attack.contains("asks for os.system"), "{attack}");
    let eval = refusal("x.pt", &archive(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."));
    assert!(eval.contains("builtins.eval"), "{eval}");
    for (pickle, words) in [
        (&b"\x80\x02}"[..], "ends too early"),
        (b"\x80\x02.", "stack underflow"),
        (b"\x80\x02}X\xff\xff\xff\x7fw.", "ends too early"),
        (b"\x80\x02}u.", "no mark"),
        (b"\x80\x02h\x05.", "unknown memo"),
        (b"\x80\x02\xfe.", "0xfe"),
        (b"\x80\x02}.", "no tensors"),
    ] {
        let message = refusal("x.pt", &archive(pickle));
        assert!(message.contains(words), "{message}");
    }
    let larger = refusal("x.pt", &archive(&tensor_pickle(0, 5, 4)));
    assert!(larger.contains("larger than its storage"), "{larger}");
    let beyond = refusal("x.pt", &archive(&tensor_pickle(3, 2, 4)));
    assert!(beyond.contains("larger than its storage"), "{beyond}");
    let other = refusal("x.pt", &archive(&tensor_pickle(0, 4, 4)));
    assert!(other.contains("not an ADM UNet"), "a sound file of another model: {other}");
    assert!(refusal("x.pt", b"PK\x03\x04 and then nothing").contains("zip"));
    assert!(refusal("x.bin", b"\x80\x02}.").contains("a pickle that torch.save did not write"));
}

/// PyTorch under Python 2 wrote an OrderedDict as a call with a list of lists [name, tensor].
#[test]
fn a_dict_that_is_made_from_a_list_of_pairs_is_read() {
    let storage = b"((U\x07storagectorch\nFloatStorage\nU\x010U\x06cuda:0K\x04NtQ";
    let tensor = |offset: u8| {
        let layout = [b'K', offset, b'K', 2, 0x85, b'K', 1, 0x85, 0x89, b'N', b't', b'R'];
        [&b"ctorch._utils\n_rebuild_tensor_v2\n"[..], storage, &layout].concat()
    };
    let pair = |name: &[u8], offset| [&b"](U\x01"[..], name, &tensor(offset), b"e"].concat();
    let head = b"\x80\x02ccollections\nOrderedDict\n](";
    let pickle = [&head[..], &pair(b"a", 0), &pair(b"b", 2), b"e\x85R."].concat();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.pth");
    std::fs::write(&path, archive(&pickle)).unwrap();
    let file = Checkpoint::open(&path).unwrap();
    assert_eq!(file.tensors.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(file.values("b").unwrap(), [0.0, 0.0]);
    // Lists that lie in each other, or in themselves, grow by one pair per item and not without end.
    let nested = b"\x80\x02ccollections\nOrderedDict\n]q\x05(h\x05h\x05eq\x06\x85R.";
    std::fs::write(&path, archive(nested)).unwrap();
    assert!(Checkpoint::open(&path).err().unwrap().to_string().contains("no tensors"));
}

#[test]
fn a_configuration_that_lies_is_refused() {
    let file = data("adm_a.safetensors");
    let with = |json: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let checkpoint = Checkpoint::open(&file).unwrap();
        let all = checkpoint.tensors.iter().map(|(n, t)| (n.clone(), t.shape.clone(), checkpoint.values(n).unwrap()));
        let tensors: Vec<_> = all.collect();
        let views: Vec<_> = tensors.iter().map(|(n, s, v)| (n.as_str(), s.clone(), &v[..])).collect();
        dmap::weights::write_safetensors(&path, &views).unwrap();
        std::fs::write(path.with_extension("json"), json).unwrap();
        Model::open(&path).map(|_| ()).unwrap_err().to_string()
    };
    for (json, words) in [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        (r#"{"model_channels": "many"}"#, "model_channels is \"many\", expected a whole number"),
        (r#"{"model_channels": 0}"#, "model_channels is 0"),
        (r#"{"model_channels": 64}"#, "model_channels is 64, but the shapes of the tensors say 32"),
        (r#"{"channel_mult": []}"#, "channel_mult is [], but the shapes of the tensors say [1, 2]"),
        (r#"{"norm_groups": 7}"#, "7 groups"),
        (r#"{"predicts": "v"}"#, "predicts is \"v\"; only epsilon"),
        (r#"{"num_res_blocks": 2}"#, "num_res_blocks is 2, but"),
        (r#"{"num_heads": 5, "num_head_channels": 0}"#, "5 heads"),
    ] {
        let message = with(json);
        assert!(message.contains(words), "{json}: {message}");
    }
}
