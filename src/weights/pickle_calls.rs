//! What a pickle may name and call: the functions that rebuild tensors, and classes of plain data,
//! whose objects are skipped. No function is ever run.

use super::number::Number;
use super::pickle::{PickledTensor, Storage, Value};
use std::rc::Rc;

/// No tensor has more extents.
const LARGEST_RANK: usize = 16;

/// A class or function that a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    Dict,
    RebuildTensor,
    /// As `RebuildTensor`, with the element type as an argument.
    RebuildTypedTensor,
    RebuildParameter,
    /// Calls one of the above for a subclass of tensors.
    RebuildSubclass,
    Storage(Number),
    ElementType(Number),
    /// Its objects are data that no tensor depends on.
    Data,
}

/// Modules of which every class holds settings, dates, paths or bookkeeping of a training run.
const DATA_MODULES: [&str; 17] = [
    "addict",
    "datetime",
    "easydict",
    "lightning",
    "lightning_fabric",
    "ml_collections",
    "munch",
    "numpy.core.multiarray",
    "numpy._core.multiarray",
    "numpy.dtypes",
    "omegaconf",
    "pathlib",
    "pytorch_lightning",
    "torch.optim",
    "torch.torch_version",
    "typing",
    "yacs.config",
];

const DATA_CLASSES: [&str; 27] = [
    "_codecs.encode",
    "argparse.Namespace",
    "collections.Counter",
    "collections.deque",
    "copy_reg._reconstructor",
    "copyreg._reconstructor",
    "decimal.Decimal",
    "fractions.Fraction",
    "numpy.bool",
    "numpy.bool_",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.str_",
    "torch.Generator",
    "torch.Size",
    "torch.Tensor",
    "torch.channels_last",
    "torch.contiguous_format",
    "torch.cuda.amp.grad_scaler.GradScaler",
    "torch.device",
    "torch.nn.parameter.Buffer",
    "torch.nn.parameter.Parameter",
    "torch.preserve_format",
    "torch.serialization._get_layout",
    "torch.strided",
    "types.SimpleNamespace",
    "uuid.UUID",
];

/// Built-in classes of plain data; Python 2 called their module `__builtin__`.
const BUILT_IN: [&str; 16] = [
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "float",
    "frozenset",
    "int",
    "list",
    "long",
    "object",
    "range",
    "set",
    "slice",
    "str",
    "tuple",
    "unicode",
];

impl Global {
    /// The global of this name, if a pickle may name it.
    pub fn named(module: &str, name: &str) -> Option<Global> {
        match (module, name) {
            ("collections", "OrderedDict" | "defaultdict") | ("builtins" | "__builtin__", "dict") => Some(Global::Dict),
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Some(Global::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Global::RebuildTypedTensor),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Some(Global::RebuildParameter),
            ("torch._tensor", "_rebuild_from_type_v2") => Some(Global::RebuildSubclass),
            ("torch.storage", "UntypedStorage") => Some(Global::Storage(Number::U8)),
            ("torch", _) if name.ends_with("Storage") => storage(name).map(Global::Storage),
            ("torch", _) if element_type(name).is_some() => element_type(name).map(Global::ElementType),
            ("builtins" | "__builtin__", _) => BUILT_IN.contains(&name).then_some(Global::Data),
            _ => is_data(module, name).then_some(Global::Data),
        }
    }
}

/// A dotted name could reach into other modules.
fn is_data(module: &str, name: &str) -> bool {
    let is_inside = |known: &str| module.strip_prefix(known).is_some_and(|m| m.is_empty() || m.starts_with('.'));
    let is_class = |known: &str| known.rsplit_once('.') == Some((module, name));
    // numpy.float64 and its like.
    let is_numpy_scalar = module == "numpy" && name.trim_end_matches(|c: char| c.is_ascii_digit()).len() < name.len();
    let is_plain = !name.contains('.');
    is_plain && (is_numpy_scalar || DATA_MODULES.into_iter().any(is_inside) || DATA_CLASSES.into_iter().any(is_class))
}

fn storage(name: &str) -> Option<Number> {
    Some(match name.strip_suffix("Storage")? {
        "Double" => Number::F64,
        "Float" => Number::F32,
        "Half" => Number::F16,
        "BFloat16" => Number::Bf16,
        "Long" => Number::I64,
        "Int" => Number::I32,
        "Short" => Number::I16,
        "Char" => Number::I8,
        "Byte" | "Untyped" => Number::U8,
        "Bool" => Number::Bool,
        "ComplexFloat" => Number::Other("complex64", 8),
        "ComplexDouble" => Number::Other("complex128", 16),
        _ => return None,
    })
}

fn element_type(name: &str) -> Option<Number> {
    Some(match name {
        "float64" | "double" => Number::F64,
        "float32" | "float" => Number::F32,
        "float16" | "half" => Number::F16,
        "bfloat16" => Number::Bf16,
        "int64" | "long" => Number::I64,
        "int32" | "int" => Number::I32,
        "int16" | "short" => Number::I16,
        "int8" => Number::I8,
        "uint64" => Number::U64,
        "uint32" => Number::U32,
        "uint16" => Number::U16,
        "uint8" => Number::U8,
        "bool" => Number::Bool,
        "complex64" => Number::Other("complex64", 8),
        "complex128" => Number::Other("complex128", 16),
        "float8_e4m3fn" | "float8_e5m2" | "float8_e4m3fnuz" | "float8_e5m2fnuz" => Number::Other("f8", 1),
        _ => return None,
    })
}

/// The storage that a persistent id names: (kind, type, key, device, elements), in files of PyTorch
/// before 1.6 with a view: none, or (key, first element, elements).
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

/// The value of a call, without running anything.
pub(super) fn call(callable: &Value, arguments: &Value) -> Result<Value, String> {
    let (Value::Global(global), Value::Tuple(arguments)) = (callable, arguments) else {
        return match callable {
            Value::Opaque => Ok(Value::Opaque),
            _ => Err("its pickle is damaged (a call of something that is no function)".into()),
        };
    };
    match (global, &arguments.items[..]) {
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
