//! Reads the pickle of a PyTorch archive as data. Nothing is executed: a pickle that asks for anything but tensors and
//! plain containers is refused by the name of what it asks for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// A value of the restricted pickle language.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Str(Rc<str>),
    Tuple(Rc<Vec<Value>>),
    List(Rc<RefCell<Vec<Value>>>),
    Dict(Rc<RefCell<Vec<(Value, Value)>>>),
    Global(Rc<str>),
    /// (type, key of the file in the archive, elements)
    Storage(Rc<str>, Rc<str>, usize),
    Tensor(Rc<PickledTensor>),
    Mark,
}

/// What `_rebuild_tensor_v2` was given.
#[derive(Debug)]
pub(super) struct PickledTensor {
    pub storage: Rc<str>,
    pub key: Rc<str>,
    pub elements: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

const STORAGES: [&str; 9] = [
    "FloatStorage",
    "HalfStorage",
    "BFloat16Storage",
    "DoubleStorage",
    "LongStorage",
    "IntStorage",
    "ShortStorage",
    "ByteStorage",
    "BoolStorage",
];

fn allowed(global: &str) -> bool {
    matches!(global, "collections.OrderedDict" | "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_parameter")
        || global.strip_prefix("torch.").is_some_and(|s| STORAGES.contains(&s))
}

/// Runs the pickle; gives the value that it leaves.
pub(super) fn read(bytes: &[u8]) -> Result<Value, String> {
    Machine { bytes, at: 0, stack: Vec::new(), memo: HashMap::new() }.run()
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
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
    fn text(&mut self, n: usize) -> Result<Rc<str>, String> {
        std::str::from_utf8(self.take(n)?).map(Rc::from).map_err(|_| "its pickle holds text that is not UTF-8".into())
    }
    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|&b| b == b'\n').ok_or("its pickle ends too early")?;
        self.at += n + 1;
        std::str::from_utf8(&rest[..n]).map_err(|_| "its pickle holds text that is not UTF-8".into())
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
    fn pop_n(&mut self, n: usize) -> Result<Value, String> {
        let mut values = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        values.reverse();
        Ok(Value::Tuple(Rc::new(values)))
    }
    fn remember(&mut self, slot: u32) -> Result<(), String> {
        let top = self.stack.last().cloned().ok_or("its pickle is damaged (nothing to remember)")?;
        self.memo.insert(slot, top);
        Ok(())
    }
    fn recall(&mut self, slot: u32) -> Result<(), String> {
        let value = self.memo.get(&slot).cloned().ok_or("its pickle is damaged (unknown memo)")?;
        self.stack.push(value);
        Ok(())
    }
    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let global = format!("{module}.{name}");
        if !allowed(&global) {
            return Err(format!("its pickle asks for {global}; only tensors are read, so the file is refused"));
        }
        self.stack.push(Value::Global(global.into()));
        Ok(())
    }
    fn set_items(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::Dict(dict)) = self.stack.last() else { return Err("its pickle is damaged (no dict)".into()) };
        let mut dict = dict.borrow_mut();
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            dict.push((key, value));
        }
        Ok(())
    }
    fn append(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::List(list)) = self.stack.last() else { return Err("its pickle is damaged (no list)".into()) };
        list.borrow_mut().extend(items);
        Ok(())
    }

    fn run(mut self) -> Result<Value, String> {
        loop {
            match self.take(1)?[0] {
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'.' => return self.pop(),
                b'(' => self.stack.push(Value::Mark),
                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Bool),
                0x89 => self.stack.push(Value::Bool),
                b'K' => {
                    let v = self.number(1)?;
                    self.stack.push(Value::Int(v as i64));
                }
                b'M' => {
                    let v = self.number(2)?;
                    self.stack.push(Value::Int(v as i64));
                }
                b'J' => {
                    let v = self.number(4)? as u32 as i32;
                    self.stack.push(Value::Int(v.into()));
                }
                0x8a => {
                    let n = self.number(1)? as usize;
                    if n > 8 {
                        return Err("its pickle holds a number of more than 64 bits".into());
                    }
                    let v = self.number(n)?;
                    let unused = 64 - 8 * n as u32;
                    self.stack.push(Value::Int(if n == 0 { 0 } else { (v << unused) as i64 >> unused }));
                }
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Float);
                }
                b'X' => {
                    let n = self.number(4)? as usize;
                    let text = self.text(n)?;
                    self.stack.push(Value::Str(text));
                }
                0x8c => {
                    let n = self.number(1)? as usize;
                    let text = self.text(n)?;
                    self.stack.push(Value::Str(text));
                }
                b'}' => self.stack.push(Value::Dict(Rc::default())),
                b']' => self.stack.push(Value::List(Rc::default())),
                b')' => self.stack.push(Value::Tuple(Rc::default())),
                b't' => {
                    let values = self.pop_to_mark()?;
                    self.stack.push(Value::Tuple(Rc::new(values)));
                }
                op @ 0x85..=0x87 => {
                    let tuple = self.pop_n(op as usize - 0x84)?;
                    self.stack.push(tuple);
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set_items(vec![key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                b'q' => {
                    let slot = self.number(1)? as u32;
                    self.remember(slot)?;
                }
                b'r' => {
                    let slot = self.number(4)? as u32;
                    self.remember(slot)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let slot = self.number(1)? as u32;
                    self.recall(slot)?;
                }
                b'j' => {
                    let slot = self.number(4)? as u32;
                    self.recall(slot)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Str(module), Value::Str(name)) = (module, name) else {
                        return Err("its pickle is damaged (a global without a name)".into());
                    };
                    self.global(&module, &name)?;
                }
                b'Q' => {
                    let storage = persistent(self.pop()?)?;
                    self.stack.push(storage);
                }
                b'R' => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    let value = call(&callable, &arguments)?;
                    self.stack.push(value);
                }
                // State of an OrderedDict (its attributes): not needed.
                b'b' => drop(self.pop()?),
                op => return Err(format!("its pickle uses operation {op:#04x}, which no file of tensors needs")),
            }
        }
    }
}

fn persistent(id: Value) -> Result<Value, String> {
    if let Value::Tuple(parts) = &id
        && let [Value::Str(kind), Value::Global(storage), Value::Str(key), _, Value::Int(elements)] = &parts[..]
        && &**kind == "storage"
    {
        return Ok(Value::Storage(storage.clone(), key.clone(), *elements as usize));
    }
    Err("its pickle names a storage in an unknown way".into())
}

fn call(callable: &Value, arguments: &Value) -> Result<Value, String> {
    let (Value::Global(name), Value::Tuple(args)) = (callable, arguments) else {
        return Err("its pickle is damaged (a call of something that is no function)".into());
    };
    match (&**name, &args[..]) {
        ("collections.OrderedDict", []) => Ok(Value::Dict(Rc::default())),
        ("torch._utils._rebuild_parameter", [tensor @ Value::Tensor(_), ..]) => Ok(tensor.clone()),
        (
            "torch._utils._rebuild_tensor_v2",
            [
                Value::Storage(storage, key, elements),
                Value::Int(offset),
                Value::Tuple(shape),
                Value::Tuple(strides),
                ..,
            ],
        ) => Ok(Value::Tensor(Rc::new(PickledTensor {
            storage: storage.clone(),
            key: key.clone(),
            elements: *elements,
            offset: usize::try_from(*offset).map_err(|_| "its pickle has a negative offset")?,
            shape: extents(shape)?,
            strides: extents(strides)?,
        }))),
        _ => Err(format!("its pickle calls {name} in a way that no file of tensors does")),
    }
}

fn extents(values: &[Value]) -> Result<Vec<usize>, String> {
    let extent = |v: &Value| match v {
        Value::Int(i) => usize::try_from(*i).ok(),
        _ => None,
    };
    values.iter().map(|v| extent(v).ok_or_else(|| "its pickle has an extent that is no number".to_string())).collect()
}
