//! The pages of `--report`: they stand by themselves, show what there is, and nothing that a user
//! names becomes markup.

use crate::folder::{Folder, dmap, text};
use crate::page::Page;
use std::path::Path;
use std::process::Command;

fn read(folder: &Folder, name: &str) -> Page {
    Page::read(&folder.path(name))
}

#[test]
fn a_page_shows_every_image_and_nothing_a_user_names_becomes_markup() {
    let f = Folder::new();
    // The path has the text <script>alert(1)</script>.png.
    let hostile = f.picture("<script>alert(1)</script>.png", 24, 16);
    let quotes = f.picture("\"&'.png", 24, 16);
    let bad = f.string("<b>bad.png");
    std::fs::write(&bad, "no picture").unwrap();
    let run = |out: &str, more: &[&str]| {
        let usual = ["restore", &hostile, &quotes, &bad, "--task", "sr2", "--method", "dmap:k=2", "--steps", "4"];
        let o = dmap(&[&usual[..], &["--samples", "2", "--batch", "2", "--out", out], more].concat());
        assert_eq!(o.status.code(), Some(2), "{}", text(&o));
        text(&o)
    };
    let (out, plain) = (f.string("out"), f.string("plain"));
    run(&out, &["--report", &f.string("new/page.html")]);
    let page = read(&f, "new/page.html");
    // Per image: measurement, truth, mean; mean, standard deviation, two samples; four estimates.
    assert_eq!(page.stands_by_itself(), vec![(24, 16); 2 * (3 + 4 + 4)]);
    assert!(page.count("&lt;script&gt;alert(1)&lt;/script&gt;.png") >= 3, "heading, table, settings");
    assert!(page.count("&quot;&amp;&#39;.png") >= 3);
    assert_eq!(page.count("&lt;b&gt;bad.png"), 1, "the one that could not be restored");
    assert_eq!(page.count("alert(1)</script>"), 0);
    for curve in ["|| A(x0) - y ||", "change of x", "seconds of a step"] {
        assert_eq!(page.points(curve), [4, 4], "{curve}");
    }
    // At the last level DMAP does not ascend.
    assert_eq!(page.points("step against the gradient"), [3, 3]);
    // Two phases, and as many points as each has nodes.
    let nodes = page.points("arena");
    assert!(nodes.len() == 2 && nodes[1] > nodes[0] && nodes[0] > 100, "{nodes:?}");
    assert_eq!(page.count("class=\"shade\" x="), 1, "the outer phase has no reverse pass");
    assert_eq!(page.count("Samples"), 2);

    // The report changes nothing of the result.
    run(&plain, &[]);
    for name in ["\"&'/restored-1.png", "\"&'/restored-mean.png", "script>/restored-2.png"] {
        let read = |out: &str| std::fs::read(f.path(out).join(name)).unwrap();
        assert!(read("out") == read("plain"), "{name}");
    }

    // A second run finds the images finished, and reads them from their folders.
    let said = run(&out, &["--report", &f.string("again.html")]);
    assert_eq!(said.matches("finished before").count(), 2, "{said}");
    let again = read(&f, "again.html");
    assert_eq!(again.stands_by_itself(), vec![(24, 16); 2 * (3 + 4)]);
    assert_eq!(again.count("Restored by an earlier run"), 2);
    assert_eq!((again.points("|| A(x0) - y ||"), again.points("change of x")), (vec![4, 4], vec![]));
    let pictures = |page: &Page| page.attributes("src").iter().map(|s| s.to_string()).collect::<Vec<_>>();
    // Measurement, truth, mean; mean, standard deviation, samples.
    assert_eq!(pictures(&page)[..7], pictures(&again)[..7]);
    let left = |name: &str| std::fs::read_dir(f.path(name)).unwrap().count();
    assert_eq!(left("new"), 1, "no partial file is left");
}

#[test]
fn measurements_have_no_truth_and_latent_estimates_are_decoded() {
    let f = Folder::new();
    let photo = f.picture("photo.png", 32, 32);
    let run = |arguments: &[&str]| {
        let o = dmap(arguments);
        assert!(o.status.success(), "{}", text(&o));
    };
    let (out, page) = (f.string("out"), f.string("latent.html"));
    let usual = ["--task", "inpaint-random:missing=0.5", "--steps", "3"];
    let latent = ["--model", "tiny-latent", "--method", "dps:step=polyak:0.2", "--out", &out, "--report", &page];
    run(&[&["restore", &photo], &usual[..], &latent].concat());
    assert_eq!(read(&f, "latent.html").stands_by_itself(), vec![(32, 32); 3 + 3]);
    let (y, page) = (f.string("out/photo/measurement.safetensors"), f.string("y.html"));
    let again = ["--measurement", "--method", "ddrm", "--out", &f.string("y"), "--report", &page];
    run(&[&["restore", &y], &usual[..], &again].concat());
    let page = read(&f, "y.html");
    assert_eq!(page.stands_by_itself(), vec![(32, 32); 2 + 3]);
    assert_eq!((page.count("truth"), page.count("PSNR</dt>")), (0, 0));
}

#[test]
fn a_report_that_cannot_be_written_is_refused_before_the_work() {
    let f = Folder::new();
    let photo = f.picture("photo.png", 16, 16);
    std::fs::create_dir(f.path("folder")).unwrap();
    let (folder, below) = (f.string("folder"), f.string("photo.png/page.html"));
    for (report, words) in [
        (&folder, "it is a folder"),
        (&below, "photo.png can't be made"),
        (&photo, "no page of dmap and is not overwritten"),
    ] {
        for command in [&["restore", &photo, "--task", "sr2", "--out", &f.string("out")][..], &["bench"]] {
            let o = dmap(&[command, &["--report", report]].concat());
            let said = text(&o);
            assert_eq!(o.status.code(), Some(2), "{said}");
            assert!(said.contains(words) && said.contains("--report"), "{said}");
        }
    }
    assert!(!f.path("out").exists());
}

#[test]
fn lpips_is_reported_with_the_weights_that_are_given() {
    let f = Folder::new();
    let (photo, small) = (f.picture("photo.png", 36, 32), f.picture("small.png", 16, 16));
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/metrics");
    let [features, lin] = ["vgg16.pth", "vgg_lin.pth"].map(|name| weights.join(name).display().to_string());
    let alex = weights.join("alex.safetensors").display().to_string();
    let run = |more: &[&str]| dmap(&[&["restore", &photo, &small, "--task", "sr2", "--steps", "2"], more].concat());
    let o = run(&["--out", &f.string("vgg"), "--lpips", &features, "--lpips", &lin, "--report", &f.string("v.html")]);
    assert!(o.status.success(), "{}", text(&o));
    let result: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(f.path("vgg/photo/result.json")).unwrap()).unwrap();
    let distance = result["lpips"].as_f64().unwrap();
    assert!(distance > 0.0 && distance < 1.0 && result["lpips_network"] == "vgg", "{result}");
    assert!(text(&o).contains(&format!("LPIPS {distance:.3}")), "{}", text(&o));
    assert_eq!(read(&f, "v.html").count("LPIPS</dt>"), 2);
    // AlexNet takes no picture this small; the image is restored all the same.
    let o = run(&["--out", &f.string("alex"), "--lpips", &alex]);
    assert!(o.status.success() && text(&o).contains("31x31 pixels or more, found 16x16"), "{}", text(&o));
    let o = run(&["--out", &f.string("half"), "--lpips", &lin]);
    assert!(o.status.code() == Some(2) && text(&o).contains("give the file of the features too"), "{}", text(&o));
    let o = run(&["--out", &f.string("y"), "--lpips", &alex, "--measurement"]);
    assert!(o.status.code() == Some(2) && text(&o).contains("a measurement does not have"), "{}", text(&o));
}

#[test]
fn a_benchmark_has_a_page_with_a_bar_per_row() {
    let f = Folder::new();
    let steps = ["bench", "--device", "cpu", "--only", "steps", "--size", "16", "--batch", "1,2", "--levels", "4"];
    let o = dmap(&[&steps[..], &["--report", &f.string("bench.html")]].concat());
    assert!(o.status.success(), "{}", text(&o));
    let page = read(&f, "bench.html");
    page.stands_by_itself();
    assert_eq!(page.count("<div class=\"bar\">"), 4, "two methods, two batches");
    assert_eq!(page.count("width:100.0%"), 1, "the longest");
    assert!(page.count("dps of photo, 16x16, batch 2") == 1 && page.count("images per hour") == 4);
}

#[cfg(unix)]
#[test]
fn after_ctrl_c_the_page_has_what_is_finished() {
    let f = Folder::new();
    // The second image takes so long that it can't be finished before the signal.
    let (first, second) = (f.picture("a.png", 16, 16), f.picture("b.png", 128, 128));
    let (out, page) = (f.string("out"), f.string("page.html"));
    let arguments = ["restore", &first, &second, "--task", "sr2", "--method", "dps", "--steps", "200"];
    let mut run = Command::new(env!("CARGO_BIN_EXE_dmap"))
        .args([&arguments[..], &["--out", &out, "--report", &page]].concat())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !f.path("out/a/result.json").exists() {
        assert!(run.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let page = read(&f, "page.html");
    assert_eq!(page.stands_by_itself().len(), 3 + 6);
    assert_eq!(page.points("change of x"), [200]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_before_the_first_step_is_over_leaves_no_folder() {
    use std::io::BufRead;
    let f = Folder::new();
    let (photo, out, page) = (f.picture("a.png", 128, 128), f.string("out"), f.string("page.html"));
    let arguments = ["restore", &photo, "--task", "sr2", "--method", "sitcom", "--device", "cpu"];
    let mut run = Command::new(env!("CARGO_BIN_EXE_dmap"))
        .args([&arguments[..], &["--out", &out, "--report", &page]].concat())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The device is named before the first step, which takes twenty passes.
    let mut line = String::new();
    std::io::BufReader::new(run.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("on cpu"), "{line}");
    Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert!(!f.path("out").exists() && read(&f, "page.html").count("No image was restored") == 1);
}
