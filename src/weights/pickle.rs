//! Reads the pickle of a PyTorch file as data. Nothing is executed. Plain data beside the tensors
//! is skipped; a pickle that names anything else is refused with that name.

use super::number::Number;
use super::pickle_calls::{call, persistent};
use super::pickle_value::{Global, Tuple, Value};
use std::collections::HashMap;
use std::rc::Rc;

/// Maximum nesting of containers; deeper ones are refused while they are built.
const DEEPEST: usize = 64;
/// Maximum total number of texts, containers, tensors, memo slots and elements of containers.
const MOST_PARTS: usize = 1 << 18;
const HIGHEST_STACK: usize = 1 << 17;

/// The result of a pickle.
pub(super) struct Pickled {
    pub value: Value,
    /// Every storage that the pickle names, by key: type and number of elements.
    pub storages: HashMap<Rc<str>, (Number, usize)>,
    /// Length of the pickle in bytes.
    pub length: usize,
}

/// Interprets the pickle at the start of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Result<Pickled, String> {
    let mut machine =
        Machine { bytes, at: 0, parts: 0, stack: Vec::new(), memo: HashMap::new(), storages: HashMap::new() };
    let value = machine.run()?;
    Ok(Pickled { value, storages: machine.storages, length: machine.at })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    parts: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    storages: HashMap<Rc<str>, (Number, usize)>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n).filter(|&e| e <= self.bytes.len()).ok_or("its pickle ends too early")?;
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }
    fn number(&mut self, n: usize) -> Result<u64, String> {
        Ok(self.take(n)?.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b)))
    }
    fn count(&mut self, n: usize) -> Result<usize, String> {
        let count = self.number(n)?;
        usize::try_from(count).map_err(|_| "its pickle ends too early".into())
    }
    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|&b| b == b'\n').ok_or("its pickle ends too early")?;
        self.at += n + 1;
        std::str::from_utf8(&rest[..n]).map_err(|_| "its pickle holds text that is not UTF-8".into())
    }

    /// Counts stored parts. A pickle with too many parts is refused before it uses much memory.
    fn keep(&mut self, parts: usize) -> Result<(), String> {
        self.parts += parts;
        if self.parts > MOST_PARTS {
            return Err(format!(
                "its pickle has more than {MOST_PARTS} parts; save the state_dict alone, by torch.save(model.state_dict(), path)"
            ));
        }
        Ok(())
    }
    fn push(&mut self, value: Value) -> Result<(), String> {
        if self.stack.len() >= HIGHEST_STACK {
            return Err("its pickle builds more at a time than any file of tensors does".into());
        }
        self.stack.push(value);
        Ok(())
    }
    fn push_text(&mut self, n: usize) -> Result<(), String> {
        let text = std::str::from_utf8(self.take(n)?).map_err(|_| "its pickle holds text that is not UTF-8")?;
        self.keep(1)?;
        self.push(Value::Text(text.into()))
    }
    fn push_int(&mut self, n: usize) -> Result<(), String> {
        if n > 8 {
            self.take(n)?;
            return self.push(Value::Opaque);
        }
        let (v, unused) = (self.number(n)?, 64 - 8 * n as u32);
        self.push(Value::Int(if n == 0 { 0 } else { (v << unused) as i64 >> unused }))
    }
    fn push_bytes(&mut self, n: usize) -> Result<(), String> {
        self.take(n)?;
        self.push(Value::Opaque)
    }
    fn push_tuple(&mut self, items: Vec<Value>) -> Result<(), String> {
        let depth = 1 + items.iter().map(close).max().unwrap_or(0);
        check_depth(depth)?;
        self.keep(1 + items.len())?;
        self.push(Value::Tuple(Rc::new(Tuple { items, depth })))
    }
    fn push_dict(&mut self) -> Result<(), String> {
        self.keep(1)?;
        self.push(Value::Dict(Rc::default()))
    }
    fn push_list(&mut self) -> Result<(), String> {
        self.keep(1)?;
        self.push(Value::List(Rc::default()))
    }
    fn pop(&mut self) -> Result<Value, String> {
        match self.stack.pop() {
            Some(Value::Mark) | None => Err("its pickle is damaged (stack underflow)".into()),
            Some(value) => Ok(value),
        }
    }
    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark =
            self.stack.iter().rposition(|v| matches!(v, Value::Mark)).ok_or("its pickle is damaged (no mark)")?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }
    fn pop_n(&mut self, n: usize) -> Result<Vec<Value>, String> {
        let mut values = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        values.reverse();
        Ok(values)
    }
    fn remember(&mut self, slot: u32) -> Result<(), String> {
        let top = self.stack.last().cloned().ok_or("its pickle is damaged (nothing to remember)")?;
        self.keep(1)?;
        self.memo.insert(slot, top);
        Ok(())
    }
    fn recall(&mut self, slot: u32) -> Result<(), String> {
        let value = self.memo.get(&slot).cloned().ok_or("its pickle is damaged (unknown memo)")?;
        self.push(value)
    }
    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let global = Global::named(module, name).ok_or_else(|| {
            format!(
                "its pickle asks for {module}.{name}; only tensors and plain data are read, so the file is refused: \
                 save the state_dict alone"
            )
        })?;
        self.push(Value::Global(global))
    }
    fn set_items(&mut self, items: Vec<Value>) -> Result<(), String> {
        let dict = match self.stack.last() {
            Some(Value::Dict(dict)) => dict.clone(),
            Some(Value::Opaque) => return Ok(()),
            _ => return Err("its pickle is damaged (no dict)".into()),
        };
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            let (Value::Text(key), Value::Dict(_) | Value::Tensor(_)) = (key, &value) else { continue };
            let depth = 1 + close(&value);
            check_depth(depth)?;
            if dict.is_closed.get() {
                return Err("its pickle changes a dict that lies in another already".into());
            }
            self.keep(1)?;
            dict.depth.set(dict.depth.get().max(depth));
            dict.entries.borrow_mut().push((key, value));
        }
        Ok(())
    }
    fn append(&mut self, items: Vec<Value>) -> Result<(), String> {
        let list = match self.stack.last() {
            Some(Value::List(list)) => list.clone(),
            Some(Value::Opaque) => return Ok(()),
            _ => return Err("its pickle is damaged (no list)".into()),
        };
        if let [Value::Text(name), Value::Tensor(tensor)] = &items[..] {
            *list.named.borrow_mut() = Some((name.clone(), tensor.clone()));
        }
        for item in items {
            match item {
                Value::Text(text) => list.texts.borrow_mut().push(text),
                // A list may be its own item, so nothing of it stays borrowed.
                Value::List(inner) => {
                    let named = inner.named.borrow().clone();
                    list.pairs.borrow_mut().extend(named);
                }
                _ => continue,
            }
            self.keep(1)?;
        }
        Ok(())
    }
    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        self.keep(1)?;
        self.push(call(&callable, &arguments)?)
    }
    fn push_storage(&mut self) -> Result<(), String> {
        let storage = persistent(&self.pop()?)?;
        self.keep(2)?;
        let known = self.storages.entry(storage.key.clone()).or_insert((storage.number, storage.elements));
        known.1 = known.1.max(storage.first.saturating_add(storage.elements));
        self.push(Value::Storage(Rc::new(storage)))
    }

    fn run(&mut self) -> Result<Value, String> {
        loop {
            match self.take(1)?[0] {
                b'.' => return self.pop(),
                // Version of the protocol, and length of a frame.
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                // None, true, false or a float: plain data.
                b'N' | 0x88 | 0x89 => self.push(Value::Opaque)?,
                b'G' => self.push_bytes(8)?,
                op @ (b'K' | b'M') => {
                    let v = self.number(if op == b'K' { 1 } else { 2 })?;
                    self.push(Value::Int(v as i64))?;
                }
                b'J' => self.push_int(4)?,
                op @ (0x8a | 0x8b) => {
                    let n = self.count(if op == 0x8a { 1 } else { 4 })?;
                    self.push_int(n)?;
                }
                // Texts with lengths of several widths; Python 2 wrote `T` and `U`.
                op @ (0x8c | b'U' | b'X' | b'T' | 0x8d) => {
                    let n = self.count(match op {
                        0x8c | b'U' => 1,
                        0x8d => 8,
                        _ => 4,
                    })?;
                    self.push_text(n)?;
                }
                // Bytes with lengths of several widths.
                op @ (b'C' | b'B' | 0x8e | 0x96) => {
                    let n = self.count(match op {
                        b'C' => 1,
                        b'B' => 4,
                        _ => 8,
                    })?;
                    self.push_bytes(n)?;
                }
                b'(' => self.push(Value::Mark)?,
                b')' => self.push_tuple(Vec::new())?,
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push_tuple(items)?;
                }
                op @ 0x85..=0x87 => {
                    let items = self.pop_n(usize::from(op) - 0x84)?;
                    self.push_tuple(items)?;
                }
                b'}' => self.push_dict()?,
                b'd' => {
                    let items = self.pop_to_mark()?;
                    self.push_dict()?;
                    self.set_items(items)?;
                }
                b's' => {
                    let items = self.pop_n(2)?;
                    self.set_items(items)?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(items)?;
                }
                b']' => self.push_list()?,
                b'l' => {
                    let items = self.pop_to_mark()?;
                    self.push_list()?;
                    self.append(items)?;
                }
                b'a' => {
                    let items = self.pop_n(1)?;
                    self.append(items)?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                // Sets are plain data: empty, with items added, frozen.
                0x8f => self.push(Value::Opaque)?,
                0x90 => drop(self.pop_to_mark()?),
                0x91 => {
                    self.pop_to_mark()?;
                    self.push(Value::Opaque)?;
                }
                op @ (b'q' | b'r') => {
                    let slot = self.number(if op == b'q' { 1 } else { 4 })?;
                    self.remember(slot as u32)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                op @ (b'h' | b'j') => {
                    let slot = self.number(if op == b'h' { 1 } else { 4 })?;
                    self.recall(slot as u32)?;
                }
                b'0' => drop(self.stack.pop().ok_or("its pickle is damaged (stack underflow)")?),
                b'1' => drop(self.pop_to_mark()?),
                b'2' => {
                    let top = self.pop()?;
                    self.push(top.clone())?;
                    self.push(top)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(module), Value::Text(name)) = (module, name) else {
                        return Err("its pickle is damaged (a global without a name)".into());
                    };
                    self.global(&module, &name)?;
                }
                b'Q' => self.push_storage()?,
                // A function call, and a new object without and with keywords.
                b'R' | 0x81 => self.reduce()?,
                0x92 => {
                    self.pop()?;
                    self.reduce()?;
                }
                // The state of an object, such as the attributes of an OrderedDict: not needed.
                b'b' => drop(self.pop()?),
                op => return Err(format!("its pickle uses operation {op:#04x}, which no file of tensors needs")),
            }
        }
    }
}

/// Depth of the containers in `value`. A dict is closed, because it is now inside another
/// container.
fn close(value: &Value) -> usize {
    match value {
        Value::Tuple(tuple) => tuple.depth,
        Value::Dict(dict) => {
            dict.is_closed.set(true);
            dict.depth.get()
        }
        _ => 0,
    }
}

fn check_depth(depth: usize) -> Result<(), String> {
    match depth > DEEPEST {
        true => Err(format!("its pickle nests more than {DEEPEST} containers, which no file of tensors does")),
        false => Ok(()),
    }
}
