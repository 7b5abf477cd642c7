//! Values that a pickle may hold.

use super::number::Number;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Modules whose classes all hold plain data: settings, dates, paths or bookkeeping of a training
/// run.
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

/// A value of the restricted pickle language.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Data that no tensor depends on; its content is dropped.
    Opaque,
    Int(i64),
    Text(Rc<str>),
    Tuple(Rc<Tuple>),
    List(Rc<List>),
    Dict(Rc<Dict>),
    Global(Global),
    Storage(Rc<Storage>),
    Tensor(Rc<PickledTensor>),
    Mark,
}

/// A list. Its texts are stored, and what an OrderedDict of Python 2 is made from: a list of lists
/// [name, tensor]. Other tensors in lists have no names.
#[derive(Debug, Default)]
pub(super) struct List {
    pub texts: RefCell<Vec<Rc<str>>>,
    /// The content, if it is [name, tensor].
    pub(super) named: RefCell<Option<(Rc<str>, Rc<PickledTensor>)>>,
    /// The contents of those of its items that are [name, tensor].
    pub(super) pairs: RefCell<Vec<(Rc<str>, Rc<PickledTensor>)>>,
}

/// A dict. Only dicts and tensors under text keys are stored.
#[derive(Debug, Default)]
pub(super) struct Dict {
    pub entries: RefCell<Vec<(Rc<str>, Value)>>,
    pub(super) depth: Cell<usize>,
    /// The dict is inside another container and can't change any more, so that no cycle can form.
    pub(super) is_closed: Cell<bool>,
}

/// Elements of one type that several tensors may share.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub number: Number,
    pub key: Rc<str>,
    pub elements: usize,
    /// The first element, if the storage is a view of another one; else 0.
    pub first: usize,
}

/// The description from which a tensor is rebuilt; offset and strides are in elements.
#[derive(Debug)]
pub(super) struct PickledTensor {
    pub storage: Rc<Storage>,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Tuple {
    pub items: Vec<Value>,
    pub(super) depth: usize,
}

/// A class or function that a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    Dict,
    RebuildTensor,
    /// Like `RebuildTensor`, with the element type as an argument.
    RebuildTypedTensor,
    RebuildParameter,
    /// Calls one of the functions above for a subclass of tensors.
    RebuildSubclass,
    Storage(Number),
    ElementType(Number),
    /// A class whose objects are data that no tensor depends on.
    Data,
}

impl Global {
    /// The global of this name; none if a pickle may not name it.
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

/// Whether the class holds plain data. A dotted name is refused: it could reach into other modules.
pub(super) fn is_data(module: &str, name: &str) -> bool {
    let is_inside = |known: &str| module.strip_prefix(known).is_some_and(|m| m.is_empty() || m.starts_with('.'));
    let is_class = |known: &str| known.rsplit_once('.') == Some((module, name));
    // Scalar types such as numpy.float64.
    let is_numpy_scalar = module == "numpy" && name.trim_end_matches(|c: char| c.is_ascii_digit()).len() < name.len();
    let is_plain = !name.contains('.');
    is_plain && (is_numpy_scalar || DATA_MODULES.into_iter().any(is_inside) || DATA_CLASSES.into_iter().any(is_class))
}

pub(super) fn storage(name: &str) -> Option<Number> {
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

pub(super) fn element_type(name: &str) -> Option<Number> {
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
