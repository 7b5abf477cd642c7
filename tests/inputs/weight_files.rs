//! Weight files: as torch saves them, wrapped, of other programs and networks, damaged, and
//! hostile.

use crate::pickles::{Described, Pickle, archive, legacy, safetensors, zip};
use crate::table::{Folder, Row, check, row};
use dmap::weights::{Checkpoint, open_part};
use std::path::Path;

/// A folder in which files are written.
struct Files(Folder);

impl Files {
    fn new() -> Self {
        Files(Folder::new())
    }
    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.0.path(name), bytes).unwrap();
        self.0.string(name)
    }
    /// A row of `dmap info` over a file of these bytes.
    fn info(&self, name: &'static str, bytes: &[u8], code: i32, phrase: &'static str) -> Row {
        row(name, ["info", &self.write(name, bytes)], code, phrase)
    }
    fn open(&self, name: &str, bytes: &[u8]) -> Checkpoint {
        Checkpoint::open(Path::new(&self.write(name, bytes))).unwrap()
    }
}

fn bytes_of<const N: usize>(values: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
    values.into_iter().flatten().collect()
}
fn floats(values: &[f32]) -> Vec<u8> {
    bytes_of(values.iter().map(|v| v.to_le_bytes()))
}

/// A safetensors file of f32 tensors, all zeros, of these names and extents.
fn named(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let mut end = 0;
    let entries = tensors.iter().map(|(name, shape)| {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{end}]}}"#)
    });
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    safetensors(&header, &vec![0; end])
}

const PLAIN: [i32; 2] = [3, 1];
/// A tensor (2, 3) of storage 0, which has 6 elements of f32.
fn plain() -> Described<'static> {
    Described::whole("0", "FloatStorage", &[2, 3], &PLAIN)
}
const TRUTH: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

#[test]
fn values_equal_the_truth_however_a_tensor_is_stored() {
    let files = Files::new();
    let one = |t: Described, storage: &[u8]| {
        let file = files.open("a.pt", &archive(&Pickle::new().dict(&[("a.w", t)], b"").end(), storage));
        (file.tensors["a.w"].shape.clone(), file.values("a.w").unwrap())
    };
    let truth = (vec![2, 3], TRUTH.to_vec());
    assert_eq!(one(plain(), &floats(&TRUTH)), truth);
    let transposed = Described { strides: &[1, 2], ..plain() };
    assert_eq!(one(transposed, &floats(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])), truth);
    let every_second = Described { elements: 14, offset: 1, strides: &[6, 2], ..plain() };
    let spread: Vec<f32> = (0..14).map(|i| if i % 2 == 1 { (i + 1) as f32 / 2.0 } else { -1.0 }).collect();
    assert_eq!(one(every_second, &floats(&spread)), truth);
    let double = Described { storage: "DoubleStorage", ..plain() };
    assert_eq!(one(double, &bytes_of(TRUTH.map(|v| f64::from(v).to_le_bytes()))), truth);
    let scalar = Described { elements: 6, offset: 2, shape: &[], strides: &[], ..plain() };
    assert_eq!(one(scalar, &floats(&TRUTH)), (vec![], vec![3.0]));
    let none = Described { shape: &[0, 3], ..plain() };
    assert_eq!(one(none, &floats(&TRUTH)), (vec![0, 3], vec![]));
    // Two tensors of one storage, deflated.
    let (first, second) = (
        Described { shape: &[3], strides: &[1], ..plain() },
        Described { shape: &[3], strides: &[1], offset: 3, ..plain() },
    );
    let (first, second) = (Described { elements: 6, ..first }, Described { elements: 6, ..second });
    let pickle = Pickle::new().dict(&[("a.w", first), ("b.w", second)], b"").end();
    let file = files.open("b.pt", &zip(&[("data.pkl", &pickle, true), ("data/0", &floats(&TRUTH), true)]));
    assert_eq!(file.values("a.w").unwrap(), TRUTH[..3]);
    assert_eq!(file.values("b.w").unwrap(), TRUTH[3..]);
}

#[test]
fn a_file_of_torch_before_version_1_6_has_the_same_values() {
    let files = Files::new();
    let b = Described::whole("7", "LongStorage", &[2], &[1]);
    let pickle = Pickle::new().dict(&[("a.w", plain()), ("b.w", b)], b"N").end();
    let longs = bytes_of([5_i64, -6].map(|v| v.to_le_bytes()));
    let file = legacy(&pickle, &[("7", 2, &longs), ("0", 6, &floats(&TRUTH))]);
    let opened = files.open("old.pt", &file);
    assert_eq!(opened.values("a.w").unwrap(), TRUTH);
    assert_eq!(opened.numbers("b.w").unwrap(), [5.0, -6.0]);
    // A storage that is a view of another: key, first element, elements.
    let view = Pickle::new().op(b"(").text("v").int(2).int(3).op(b"t").end();
    let part = Described { elements: 6, shape: &[3], strides: &[1], ..plain() };
    let pickle = Pickle::new().dict(&[("a.w", part)], &view[2..view.len() - 1]).end();
    let opened = files.open("view.pt", &legacy(&pickle, &[("0", 6, &floats(&TRUTH))]));
    assert_eq!(opened.values("a.w").unwrap(), TRUTH[2..5]);
    check(&[
        files.info("cut", &file[..file.len() - 4], 2, "ends within storage 0"),
        files.info("no storages", &legacy(&pickle, &[]), 2, "lacks its storage"),
        files.info("unknown storage", &legacy(&pickle, &[("9", 6, &[0; 24])]), 2, "storage 9 belongs to no tensor"),
        files.info("few elements", &legacy(&pickle, &[("0", 1, &[0; 4])]), 2, "has 1 elements"),
        files.info("huge count", &legacy(&pickle, &[("0", u64::MAX, &[0; 4])]), 2, "elements"),
        files.info("other pickle", &Pickle::new().op(b"}").end(), 2, "a pickle that torch.save did not write"),
    ]);
}

#[test]
fn integers_are_numbers_but_no_weights() {
    let files = Files::new();
    let header = r#"{"t":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},"big":{"dtype":"I64","shape":[1],"data_offsets":[16,24]},"u":{"dtype":"U8","shape":[2],"data_offsets":[24,26]}}"#;
    let data = [
        bytes_of([999_i64, -(1 << 24)].map(|v| v.to_le_bytes())),
        ((1_i64 << 24) + 1).to_le_bytes().to_vec(),
        vec![0, 255],
    ];
    let file = files.open("n.safetensors", &safetensors(header, &data.concat()));
    assert_eq!(file.numbers("t").unwrap(), [999.0, -16777216.0]);
    assert_eq!(file.numbers("u").unwrap(), [0.0, 255.0]);
    let message = file.numbers("big").unwrap_err().to_string();
    assert!(message.contains("n.safetensors: tensor big holds 16777217 at position 0"), "{message}");
    let message = file.values("t").unwrap_err().to_string();
    assert!(message.contains("tensor t holds i64 values"), "{message}");
}

/// What the tensor `a.w` holds once it is found under these dicts and prefixes.
fn found(pickle: Pickle) -> (Vec<String>, Vec<f32>) {
    let files = Files::new();
    let (averaged, plain) = (floats(&TRUTH), floats(&[0.0; 6]));
    let members: [(&str, &[u8], bool); 3] =
        [("x/data.pkl", &pickle.end(), false), ("x/data/0", &averaged, false), ("x/data/1", &plain, false)];
    let file = files.open("w.pt", &zip(&members));
    (file.tensors.keys().cloned().collect(), file.values("a.w").unwrap_or_default())
}

#[test]
fn wrappers_are_taken_off_and_averaged_weights_come_first() {
    let averaged = |name: &str, p: Pickle| p.text(name).dict(&[("a.w", plain()), ("a.b", plain())], b"").op(b"s");
    let trained = |name: &str, p: Pickle| {
        let zeros = || Described { key: "1", ..plain() };
        p.text(name).dict(&[("a.w", zeros()), ("a.b", zeros())], b"").op(b"s")
    };
    let dict = || Pickle::new().op(b"}");
    let scalar = |name: &str, p: Pickle| {
        p.text(name).tensor(&Described { shape: &[], strides: &[], elements: 6, ..plain() }, b"").op(b"s")
    };
    let truth = (vec!["a.b".to_string(), "a.w".to_string()], TRUTH.to_vec());
    for name in ["model_state_dict", "ema_params", "ema", "state_dict", "model", "params", "module", "net", "unet"] {
        assert_eq!(found(averaged(name, dict())), truth, "{name}");
    }
    for (ema, plain) in
        [("ema", "model"), ("ema_params", "params"), ("ema_state_dict", "state_dict"), ("params_ema", "params")]
    {
        assert_eq!(found(averaged(ema, trained(plain, dict()))), truth, "{ema} after {plain}");
        assert_eq!(found(trained(plain, averaged(ema, dict()))), truth, "{ema} before {plain}");
    }
    // Dicts in dicts, numbers beside the weights, and an average that has no named weights.
    let nested = trained("model", averaged("ema", dict().text("state_dict").op(b"}"))).op(b"s");
    assert_eq!(found(nested), truth);
    let counted = dict().text("ema").dict(&[("a.w", plain()), ("a.b", plain())], b"");
    assert_eq!(found(scalar("num_updates", scalar("decay", counted)).op(b"s")), truth);
    let empty = scalar("decay", dict().text("ema").op(b"}")).text("shadow_params").op(b"]s").op(b"s");
    assert_eq!(found(averaged("model", empty)), truth);
    // Two networks are no wrapper.
    let (names, _) = found(averaged("unet", averaged("vae", dict())));
    assert_eq!(names, ["unet.a.b", "unet.a.w", "vae.a.b", "vae.a.w"]);
}

#[test]
fn prefixes_are_taken_off_in_any_order() {
    let files = Files::new();
    let names = |tensors: &[(&str, &[usize])]| -> Vec<String> {
        files.open("p.safetensors", &named(tensors)).tensors.into_keys().collect()
    };
    for prefix in [
        "ema.",
        "state_dict.",
        "model.",
        "module.",
        "text_model.",
        "module.model.",
        "model.module.",
        "_orig_mod.",
        "unet.",
        "diffusion_model.",
        "net.",
        "module._orig_mod.net.ema.",
        "model.diffusion_model.",
    ] {
        let (w, b) = (format!("{prefix}a.w"), format!("{prefix}a.b"));
        assert_eq!(names(&[(&w, &[2, 2]), (&b, &[2])]), ["a.b", "a.w"], "{prefix}");
        let buffers = [("sqrt_alphas_cumprod", &[4][..]), ("sqrt_1m_alphas_cumprod", &[4]), ("num_updates", &[])];
        let with_buffers: Vec<_> = [(w.as_str(), &[2, 2][..]), (&b, &[2])].into_iter().chain(buffers).collect();
        assert_eq!(names(&with_buffers), ["a.b", "a.w"], "{prefix} and buffers");
    }
    assert_eq!(names(&[("ema.a.w", &[1]), ("model.a.w", &[1])]), ["a.w"], "the average of the same network");
    let two: [(&str, &[usize]); 2] = [("unet.a.w", &[1]), ("vae.a.w", &[1])];
    assert_eq!(names(&two), ["unet.a.w", "vae.a.w"]);
    assert_eq!(names(&[("model.w", &[1]), ("w", &[1])]), ["model.w", "w"], "names would meet");
    assert_eq!(names(&[("model.a.w", &[1, 1]), ("head.w", &[1, 1])]), ["head.w", "model.a.w"]);
}

#[test]
fn data_beside_the_weights_is_skipped_and_code_is_refused() {
    let files = Files::new();
    let beside = |other: Pickle| {
        let pickle = other.op(b"s").text("state_dict").dict(&[("a.w", plain())], b"").op(b"s").end();
        archive(&pickle, &floats(&TRUTH))
    };
    let arguments = || Pickle::new().op(b"}").text("args");
    let namespace = arguments().global("argparse", "Namespace").op(b")\x81}").text("lr").op(b"G\0\0\0\0\0\0\0\0sb");
    let kinds = [
        ("namespace", namespace),
        ("set", arguments().global("__builtin__", "set").op(b"](K\x01K\x02e\x85R")),
        ("empty set", arguments().op(b"\x8f(K\x01\x90")),
        ("frozen set", arguments().op(b"(K\x01\x91")),
        ("path", arguments().global("pathlib", "PosixPath").text("/").op(b"\x85R")),
        (
            "numpy",
            arguments()
                .global("numpy._core.multiarray", "scalar")
                .global("numpy", "dtype")
                .text("f8")
                .op(b"\x88\x89\x87RC\x02ab\x86R"),
        ),
        ("bytes", arguments().global("_codecs", "encode").text("a").text("latin1").op(b"\x86R")),
        ("omegaconf", arguments().global("omegaconf.dictconfig", "DictConfig").op(b")\x81}b")),
        ("default dict", arguments().global("collections", "defaultdict").global("__builtin__", "list").op(b"\x85R")),
        ("device", arguments().global("torch", "device").text("cpu").op(b"\x85R")),
        ("size", arguments().global("torch", "Size").op(b"(K\x01K\x02t\x85R")),
        ("dtype", arguments().global("torch", "float32")),
        ("longs", arguments().op(b"\x8a\x09123456789\x8b\x02\0\0\0\x01\x02\x86")),
        ("frames, bytes, copies and removals", {
            let named = Pickle::new().op(b"\x95\0\0\0\0\0\0\0\0}\x94\x8c\x01k\x94");
            named.op(b"\x8c\x05torch\x8c\x06device\x930C\x01a0\x8e\x01\0\0\0\0\0\0\0a200(0(N1N")
        }),
    ];
    for (name, pickle) in kinds {
        assert_eq!(files.open(name, &beside(pickle)).values("a.w").unwrap(), TRUTH, "{name}");
    }
    let tensor_of_data = Pickle::new().op(b"}").text("w").global("torch._utils", "_rebuild_tensor_v2");
    let tensor_of_data = tensor_of_data.op(b"(NK\0K\x01\x85K\x01\x85tRs").end();
    let asks = |module: &str, name: &str| beside(arguments().global(module, name));
    check(&[
        files.info("os", &asks("os", "system"), 2, "asks for os.system"),
        files.info("posix", &asks("posix", "system"), 2, "asks for posix.system"),
        files.info("eval", &asks("builtins", "eval"), 2, "asks for builtins.eval"),
        files.info("getattr", &asks("__builtin__", "getattr"), 2, "asks for __builtin__.getattr"),
        files.info("import", &asks("builtins", "__import__"), 2, "asks for builtins.__import__"),
        files.info("subprocess", &asks("subprocess", "Popen"), 2, "asks for subprocess.Popen"),
        files.info("through a module", &asks("pathlib", "os.system"), 2, "asks for pathlib.os.system"),
        files.info("code", &asks("types", "CodeType"), 2, "asks for types.CodeType"),
        files.info("network", &asks("torch.nn.modules.conv", "Conv2d"), 2, "save the state_dict alone"),
        files.info(
            "edm",
            &asks("torch_utils.persistence", "_reconstruct_persistent_obj"),
            2,
            "asks for torch_utils.pers",
        ),
        files.info("tensor of data", &archive(&tensor_of_data, &[]), 2, "in a way that no file of tensors does"),
    ]);
}

#[test]
fn other_files_are_refused_by_what_they_are() {
    let files = Files::new();
    let mut tar = vec![b'a'; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let script = zip(&[("m/data.pkl", b"\x80\x02}.", false), ("m/constants.pkl", b"\x80\x02).", false)]);
    check(&[
        files.info(
            "lfs.pt",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            2,
            "Git LFS pointer",
        ),
        files.info("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\n", 2, "Git LFS pointer"),
        files.info("page.pt", b"\n <!DOCTYPE html><html>", 2, "a web page (HTML)"),
        files.info("xml.pt", b"<?xml version='1.0'?><Error>", 2, "an XML page"),
        files.info("a.gguf", b"GGUF\x03\0\0\0", 2, "a GGUF file"),
        files.info("a.h5", b"\x89HDF\r\n\x1a\n\0\0", 2, "an HDF5 file"),
        files.info("a.onnx", b"\x08\x08\x12\x07pytorch\x1a\x05", 2, "an ONNX graph"),
        files.info("a.tar", &tar, 2, "a tar archive"),
        files.info("a.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\0", 2, "compressed by gzip"),
        files.info("index.json", b"{\"weight_map\": {}}", 2, "a JSON text"),
        files.info("zeros.pt", &[0; 600], 2, "nothing but zeros"),
        files.info("text.pt", b"hello, world", 2, "neither safetensors nor a file of torch.save"),
        files.info("short.pt", b"h", 2, "neither safetensors nor a file of torch.save"),
        files.info("script.pt", &script, 2, "a TorchScript archive"),
        files.info("a.npz", &zip(&[("w.npy", b"x", false)]), 2, "NumPy arrays"),
        files.info("artifact.zip", &zip(&[("m/w.safetensors", b"x", false)]), 2, "holds m/w.safetensors; unpack it"),
        files.info("empty.zip", &zip(&[]), 2, "no data.pkl"),
        row("folder as a file", ["eval", "--input", &files.0.string(""), "--out", &files.0.string("o")], 2, "a folder"),
    ]);
}

#[test]
fn networks_of_another_kind_are_named() {
    let files = Files::new();
    let names = [
        ("lora", "lora_unet_down.lora_down.weight", "a LoRA"),
        ("controlnet", "controlnet_cond_embedding.conv_in.weight", "a ControlNet"),
        ("sdxl", "conditioner.embedders.1.model.bias", "Stable Diffusion XL in one file"),
        ("sd3", "model.diffusion_model.joint_blocks.0.context_block.weight", "a diffusion transformer"),
        ("dit", "transformer_blocks.0.attn1.to_q.weight", "a diffusion transformer"),
        ("sd", "first_stage_model.decoder.conv_in.weight", "Stable Diffusion in one file"),
        ("diffusers", "down_blocks.0.resnets.0.conv1.weight", "in diffusers layout (down_blocks...); give the folder"),
        ("edm", "model.map_layer0.weight", "a network of Karras et al."),
        ("vae", "decoder.up_blocks.0.resnets.0.conv1.weight", "an autoencoder (VAE) alone"),
        ("text", "text_model.embeddings.token_embedding.weight", "a text encoder alone"),
        ("prefix", "teacher.w", "under the prefix teacher."),
    ];
    let rows = names.map(|(input, name, phrase)| files.info(input, &named(&[(name, &[2, 2])]), 0, phrase));
    check(&rows);
    let two = [("unet.time_embed.0.weight", &[2, 2][..]), ("vae.w", &[2, 2])];
    check(&[files.info("two networks", &named(&two), 0, "an ADM UNet under the prefix unet.")]);
}

#[test]
fn content_decides_and_not_the_extension() {
    let files = Files::new();
    let archived = archive(&Pickle::new().dict(&[("a.w", plain())], b"").end(), &floats(&TRUTH));
    for name in ["a.safetensors", "a.ckpt", "a"] {
        assert_eq!(files.open(name, &archived).values("a.w").unwrap(), TRUTH, "{name}");
    }
    for name in ["b.pt", "b.ckpt", "b.bin"] {
        assert_eq!(files.open(name, &named(&[("a.w", &[3])])).values("a.w").unwrap(), [0.0; 3], "{name}");
    }
    // A header of 0x280 bytes begins as a pickle of protocol 2 does.
    let header = format!("{:640}", r#"{"a.w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
    assert_eq!(files.open("c.pt", &safetensors(&header, &[0; 4])).values("a.w").unwrap(), [0.0]);
}

#[test]
fn shards_are_files_of_their_folder() {
    let files = Files::new();
    let open = |stem: &str| open_part(Path::new(&files.0.string("")), stem).map_err(|e| e.to_string());
    assert!(open("model").err().unwrap().contains("model.safetensors or pytorch_model.bin is expected"));
    let pickle = Pickle::new().dict(&[("a.w", plain())], b"").end();
    files.write("one.bin", &archive(&pickle, &floats(&TRUTH)));
    files.write("two.bin", &named(&[("b.w", &[1])]));
    let index = |name: &str, map: &str| files.write(name, format!(r#"{{"weight_map": {map}}}"#).as_bytes());
    let map = r#"{"a.w": "one.bin", "b.w": "two.bin"}"#;
    for (name, stem) in [
        ("pytorch_model.bin.index.json", "model"),
        ("diffusion_pytorch_model.bin.index.json", "diffusion_pytorch_model"),
    ] {
        index(name, map);
        let shards = open(stem).unwrap();
        assert_eq!(shards.len(), 2);
        assert_eq!(shards[0].values("a.w").unwrap(), TRUTH);
    }
    for (map, words) in [
        (r#"{"a.w": "../one.bin"}"#, "names ../one.bin, which is not in this folder"),
        (r#"{"a.w": "/etc/passwd"}"#, "not in this folder"),
        (r#"{"a.w": "three.bin"}"#, "not in this folder"),
        (r#"{"a.w": "."}"#, "not in this folder"),
        (r#"{"a.w": 1}"#, "not JSON with a weight_map"),
        ("{}", "names no file"),
    ] {
        index("pytorch_model.bin.index.json", map);
        let message = open("model").err().unwrap();
        assert!(message.contains(words), "{map}: {message}");
    }
}

#[test]
fn a_file_that_shrinks_is_an_error_and_no_signal() {
    let files = Files::new();
    for (name, bytes) in [
        ("a.safetensors", named(&[("a.w", &[1 << 20])])),
        (
            "a.pt",
            archive(
                &Pickle::new().dict(&[("a.w", Described::whole("0", "FloatStorage", &[1 << 20], &[1]))], b"").end(),
                &vec![0; 4 << 20],
            ),
        ),
    ] {
        let file = files.open(name, &bytes);
        std::fs::OpenOptions::new().write(true).open(files.0.path(name)).unwrap().set_len(1000).unwrap();
        let message = file.values("a.w").unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("has become shorter"), "{message}");
    }
}

#[test]
#[cfg(unix)]
fn only_regular_files_are_opened() {
    let files = Files::new();
    let pipe = files.0.path("pipe.pt");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    check(&[
        row("pipe", ["info", &pipe.display().to_string()], 2, "a regular file of weights is expected"),
        row("device", ["info", "/dev/zero"], 2, "a regular file of weights is expected"),
    ]);
}
