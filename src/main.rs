use dmap::graph::*; use dmap::*; use std::time::Instant;
fn main() -> anyhow::Result<()> {
    let a: Vec<String> = std::env::args().collect();
    let m = model::Model::open(&a[1])?;
    let io = weights::Checkpoint::open(a[2].as_ref())?;
    let s = io.tensors["x"].shape.clone();
    let mut g = Graph::new();
    let shape = Shape::new(s[0], s[1], s[2], s[3]);
    let x = g.input("x", shape); let t = g.input("t", Shape::rows(s[0], 1));
    let out = model::adm::adm(&mut g, &m.config, x, t, None)?;
    let v = g.input("v", g.shape(out));
    let dx = backward(&mut g, out, v, x)?;
    g.output(out); g.output(dx);
    let mem = a.get(4).map(|m| m.parse::<u64>().unwrap() << 20);
    let t0 = Instant::now();
    let mut e = executor::Executor::new(g, &PlanOptions { storage: Dtype::F32, memory: mem }, &m.weights, &backend::Device::cpu())?;
    let p = e.plan();
    eprintln!("plan {:?} arena {} MiB weights {} MiB fwd {} G vjp {} G rec {} G launches {}", t0.elapsed(), p.arena_bytes>>20, p.weight_bytes>>20, p.flops_forward/1000000000, p.flops_vjp/1000000000, p.flops_recompute/1000000000, p.launches);
    e.set_poison(true);
    e.write(x, &io.values("x")?); e.write(t, &io.values("t")?); e.write(v, &io.values("v")?);
    for _ in 0..5 { let t0 = Instant::now(); e.run()?; eprintln!("{:?}", t0.elapsed()); }
    weights::write_safetensors(a[3].as_ref(), &[("output", s.clone(), &e.read(out)), ("vjp", s, &e.read(dx))])?;
    Ok(())
}
