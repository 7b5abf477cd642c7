//! The tensors of published latent models, by name and shape, are those that the graphs read:
//! tools/tensor_lists.py made the lists.

use dmap::graph::{Graph, Shape};
use dmap::model::{AdmConfig, Codec, Conditioning, LatentDiffusion, Network, TextConfig, text_encoder};
use std::collections::BTreeMap;
use std::path::Path;

fn listed(name: &str) -> BTreeMap<String, Vec<usize>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tensors").join(format!("{name}.tsv"));
    let text = std::fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let (name, shape) = line.split_once('\t').unwrap();
        (name.to_string(), shape.split(',').map(|s| s.parse().unwrap()).collect())
    };
    text.lines().map(row).collect()
}

/// Compares the weights of `g` under `prefix` with a list that holds `tensors` of `parameters`.
fn expect(g: &Graph, prefix: &str, list: &str, tensors: usize, parameters: usize) {
    let listed = listed(list);
    assert_eq!(listed.len(), tensors, "{list}");
    assert_eq!(listed.values().map(|s| s.iter().product::<usize>()).sum::<usize>(), parameters, "{list}");
    let read: BTreeMap<&str, Shape> =
        g.weight_parts().filter_map(|t| Some((t.name.strip_prefix(prefix)?, t.shape))).collect();
    assert!(read.keys().copied().eq(listed.keys().map(|k| k.as_str())), "{list}: the names differ");
    for (name, shape) in &listed {
        let Shape { n, h, w, c } = read[&name[..]];
        let mut expected = match shape.len() {
            1 => vec![c],
            _ => vec![n, c, h, w],
        };
        expected.truncate(shape.len());
        assert_eq!(&expected, shape, "{list}: {name}");
    }
}

#[test]
fn stable_diffusion_reads_exactly_the_published_tensors() {
    for (name, parameters) in [("sd2", 865_910_724), ("sd1", 859_520_964)] {
        let network = LatentDiffusion::architecture(name).unwrap();
        let mut g = Graph::new();
        let x = g.input("x", Shape::new(1, 8, 8, 4));
        let t = g.input("t", Shape::rows(1, 1));
        network.record(&mut g, x, t, &Conditioning::default()).unwrap();
        expect(&g, "unet.", &format!("{name}-unet"), 686, parameters);

        let mut g = Graph::new();
        let image = g.input("image", Shape::new(1, 64, 64, 3));
        network.encode(&mut g, image).unwrap();
        let z = g.input("z", Shape::new(1, 8, 8, 4));
        network.decode(&mut g, z).unwrap();
        expect(&g, "vae.", "vae", 248, 83_653_863);
    }
}

#[test]
fn the_text_encoder_of_stable_diffusion_2_reads_exactly_the_published_tensors() {
    let config = TextConfig {
        hidden_size: 1024,
        intermediate_size: 4096,
        num_hidden_layers: 23,
        num_attention_heads: 16,
        hidden_act: "gelu".into(),
        ..TextConfig::default()
    };
    let mut g = Graph::new();
    let tokens = g.input("tokens", Shape::new(1, 1, 77, 1));
    text_encoder::text_encoder(&mut g, &config, tokens).unwrap();
    expect(&g, "text_encoder.", "sd2-text_encoder", 372, 340_387_840);
}

#[test]
fn a_network_refuses_a_conditioning_that_it_does_not_take() {
    let latent = LatentDiffusion::architecture("sd2").unwrap();
    let pixels = AdmConfig::architecture("photo").unwrap();
    assert_eq!(latent.prior().latent, latent.codec().map(|codec| codec.latent()));
    assert!(pixels.codec().is_none() && pixels.prior().latent.is_none());
    let refusal = |network: &dyn Network| {
        let mut g = Graph::new();
        let x = g.input("x", Shape::new(1, 16, 16, network.prior().channels));
        let t = g.input("t", Shape::rows(1, 1));
        let other = match network.text_shape() {
            Some(_) => Conditioning::default().labels(g.input("labels", Shape::rows(1, 1))),
            None => Conditioning::default().text(g.input("text", Shape::new(1, 1, 77, 768))),
        };
        network.record(&mut g, x, t, &other).unwrap_err().to_string()
    };
    assert_eq!(refusal(&latent), "this model is not class-conditional: it takes no labels");
    assert_eq!(refusal(&pixels), "a pixel model is given no text");
}
