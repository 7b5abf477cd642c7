//! Names and calls that a pickle may contain: the functions that rebuild tensors, and classes of
//! plain data, whose objects are skipped. No function is ever run.

use super::pickle_value::{Dict, Global, PickledTensor, Storage, Value};
use std::cell::RefCell;
use std::rc::Rc;

/// Maximum number of dimensions of a tensor.
const LARGEST_RANK: usize = 16;

/// The storage that a persistent id names: (kind, type, key, device, elements). In files of PyTorch
/// before 1.6 the id also has a view: none, or (key, first element, elements).
pub(super) fn persistent(id: &Value) -> Result<Storage, String> {
    let unknown = || "its pickle names a storage in an unknown way: save the state_dict alone".to_string();
    let Value::Tuple(parts) = id else { return Err(unknown()) };
    let [
        Value::Text(kind),
        Value::Global(Global::Storage(number)),
        Value::Text(key),
        _,
        Value::Int(elements),
        view @ ..,
    ] = &parts.items[..]
    else {
        return Err(unknown());
    };
    let (first, elements) = match view {
        [] | [Value::Opaque] => (0, *elements),
        [Value::Tuple(view)] => match &view.items[..] {
            [_, Value::Int(first), Value::Int(elements)] => (*first, *elements),
            _ => return Err(unknown()),
        },
        _ => return Err(unknown()),
    };
    let (Ok(first), Ok(elements)) = (usize::try_from(first), usize::try_from(elements)) else { return Err(unknown()) };
    if &**kind != "storage" {
        return Err(unknown());
    }
    Ok(Storage { number: *number, key: key.clone(), elements, first })
}

/// The result of a call; no code is run.
pub(super) fn call(callable: &Value, arguments: &Value) -> Result<Value, String> {
    let (Value::Global(global), Value::Tuple(arguments)) = (callable, arguments) else {
        return match callable {
            Value::Opaque => Ok(Value::Opaque),
            _ => Err("its pickle is damaged (a call of something that is no function)".into()),
        };
    };
    match (global, &arguments.items[..]) {
        (Global::Dict, [Value::List(list)]) => {
            let entries = list.pairs.borrow().iter().map(|(k, t)| (k.clone(), Value::Tensor(t.clone()))).collect();
            Ok(Value::Dict(Rc::new(Dict { entries: RefCell::new(entries), ..Dict::default() })))
        }
        (Global::Dict, _) => Ok(Value::Dict(Rc::default())),
        (Global::Data | Global::ElementType(_), _) => Ok(Value::Opaque),
        (Global::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => Ok(tensor.clone()),
        (Global::RebuildSubclass, [rebuild @ Value::Global(_), _, arguments, ..]) => call(rebuild, arguments),
        (
            Global::RebuildTypedTensor,
            [Value::Storage(s), offset, shape, strides, _, _, Value::Global(Global::ElementType(number)), ..],
        ) => {
            let elements = s.elements.saturating_mul(s.number.bytes()) / number.bytes();
            tensor(Rc::new(Storage { number: *number, elements, ..(**s).clone() }), offset, shape, strides)
        }
        (Global::RebuildTensor, [Value::Storage(s), offset, shape, strides, ..]) => {
            tensor(s.clone(), offset, shape, strides)
        }
        _ => {
            Err(format!("its pickle calls {global:?} in a way that no file of tensors does: save the state_dict alone"))
        }
    }
}

fn tensor(storage: Rc<Storage>, offset: &Value, shape: &Value, strides: &Value) -> Result<Value, String> {
    let (offset, shape, strides) = (extent(offset)?, extents(shape)?, extents(strides)?);
    Ok(Value::Tensor(Rc::new(PickledTensor { storage, offset, shape, strides })))
}

fn extent(value: &Value) -> Result<usize, String> {
    let Value::Int(i) = value else { return Err("its pickle has an extent that is no number".into()) };
    usize::try_from(*i).map_err(|_| "its pickle has a negative extent".into())
}

fn extents(values: &Value) -> Result<Vec<usize>, String> {
    let Value::Tuple(values) = values else { return Err("its pickle has a tensor without extents".into()) };
    if values.items.len() > LARGEST_RANK {
        return Err(format!("its pickle has a tensor of {} extents", values.items.len()));
    }
    values.items.iter().map(extent).collect()
}
