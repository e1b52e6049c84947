"""The few fields of Caffe's files that are needed, as messages of protobuf that are made when the program runs.

The numbers are those of Caffe's caffe.proto; every other field of a file is skipped. Packed floats are declared as
bytes, which look the same in a file: NumPy reads them without a Python object for each.
"""

from functools import cache
from typing import Any

from alexnet.utils.extras import missing_extra

# By message: (name, number, type, default). A type with "*" is repeated; one that begins with a capital is a message.
_MESSAGES: dict[str, tuple[tuple[str, int, str, str], ...]] = {
    "Shape": (("dim", 1, "int64*", ""),),
    "Blob": (
        ("num", 1, "int64", "0"),
        ("channels", 2, "int64", "0"),
        ("height", 3, "int64", "0"),
        ("width", 4, "int64", "0"),
        ("data", 5, "bytes*", ""),
        ("shape", 7, "Shape", ""),
        ("double_data", 8, "bytes*", ""),
    ),
    "Convolution": (
        ("pad", 3, "uint32*", ""),
        ("kernel_size", 4, "uint32*", ""),
        ("group", 5, "uint32", "1"),
        ("stride", 6, "uint32*", ""),
        ("pad_h", 9, "uint32", "0"),
        ("pad_w", 10, "uint32", "0"),
        ("kernel_h", 11, "uint32", "0"),
        ("kernel_w", 12, "uint32", "0"),
        ("stride_h", 13, "uint32", "0"),
        ("stride_w", 14, "uint32", "0"),
        ("dilation", 18, "uint32*", ""),
    ),
    "Pooling": (
        ("pool", 1, "int32", "0"),
        ("kernel_size", 2, "uint32", "0"),
        ("stride", 3, "uint32", "1"),
        ("pad", 4, "uint32", "0"),
        ("kernel_h", 5, "uint32", "0"),
        ("kernel_w", 6, "uint32", "0"),
        ("stride_h", 7, "uint32", "0"),
        ("stride_w", 8, "uint32", "0"),
        ("pad_h", 9, "uint32", "0"),
        ("pad_w", 10, "uint32", "0"),
        ("global_pooling", 12, "bool", "false"),
        ("round_mode", 13, "int32", "0"),
    ),
    "Norm": (
        ("local_size", 1, "uint32", "5"),
        ("alpha", 2, "float", "1"),
        ("beta", 3, "float", "0.75"),
        ("norm_region", 4, "int32", "0"),
        ("k", 5, "float", "1"),
    ),
    "Dropout": (("dropout_ratio", 1, "float", "0.5"),),
    "InnerProduct": (("axis", 5, "int32", "1"), ("transpose", 6, "bool", "false")),
    "ReLU": (("negative_slope", 1, "float", "0"),),
    "Transform": (("scale", 1, "float", "1"), ("crop_size", 3, "uint32", "0"), ("mean_value", 5, "float*", "")),
    "Data": (("scale", 2, "float", "1"), ("crop_size", 5, "uint32", "0")),
    "Input": (("shape", 1, "Shape*", ""),),
    "Layer": (
        ("name", 1, "string", ""),
        ("type", 2, "string", ""),
        ("bottom", 3, "string*", ""),
        ("top", 4, "string*", ""),
        ("blobs", 7, "Blob*", ""),
        ("transform_param", 100, "Transform", ""),
        ("convolution_param", 106, "Convolution", ""),
        ("data_param", 107, "Data", ""),
        ("dropout_param", 108, "Dropout", ""),
        ("inner_product_param", 117, "InnerProduct", ""),
        ("lrn_param", 118, "Norm", ""),
        ("pooling_param", 121, "Pooling", ""),
        ("relu_param", 123, "ReLU", ""),
        ("input_param", 143, "Input", ""),
    ),
    "V1Layer": (
        ("old_layer", 1, "bytes", ""),
        ("bottom", 2, "string*", ""),
        ("top", 3, "string*", ""),
        ("name", 4, "string", ""),
        ("type", 5, "int32", "0"),
        ("blobs", 6, "Blob*", ""),
        ("convolution_param", 10, "Convolution", ""),
        ("data_param", 11, "Data", ""),
        ("dropout_param", 12, "Dropout", ""),
        ("inner_product_param", 17, "InnerProduct", ""),
        ("lrn_param", 18, "Norm", ""),
        ("pooling_param", 19, "Pooling", ""),
        ("relu_param", 30, "ReLU", ""),
        ("transform_param", 36, "Transform", ""),
    ),
    "Net": (
        ("name", 1, "string", ""),
        ("layers", 2, "V1Layer*", ""),
        ("input", 3, "string*", ""),
        ("input_dim", 4, "int32*", ""),
        ("input_shape", 8, "Shape*", ""),
        ("layer", 100, "Layer*", ""),
    ),
}
# The layers' types in the first version, as the second one names them.
V1_TYPES = {
    1: "Accuracy",
    3: "Concat",
    4: "Convolution",
    5: "Data",
    6: "Dropout",
    8: "Flatten",
    9: "HDF5Data",
    12: "ImageData",
    14: "InnerProduct",
    15: "LRN",
    17: "Pooling",
    18: "ReLU",
    19: "Sigmoid",
    20: "Softmax",
    21: "SoftmaxWithLoss",
    22: "Split",
    23: "TanH",
    24: "WindowData",
    25: "Eltwise",
    29: "MemoryData",
    30: "ArgMax",
    32: "DummyData",
    33: "Slice",
    36: "Silence",
}


def parse_message(kind: str, contents: bytes) -> Any:
    """Return a message of a kind, "Net" or "Blob", from the bytes of a file.

    Raises:
        ValueError: The bytes are no such message; or protobuf is not installed.
    """
    messages = message_classes()
    from google.protobuf.message import DecodeError

    try:
        return messages[kind].FromString(contents)
    except DecodeError as error:
        raise ValueError(
            f"it must be a whole file of Caffe; it cannot be read ({error}): it may be cut off, get the file again"
        ) from error


@cache
def message_classes() -> dict[str, Any]:
    """Return the classes of the messages, by name."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise missing_extra("reading Caffe's files", "caffe", error) from error

    file = descriptor_pb2.FileDescriptorProto(name="alexnet/caffe.proto", package="alexnet.caffe", syntax="proto2")
    field_types = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, default in fields:
            scalar = kind.removesuffix("*")
            field = message.field.add(name=field_name, number=number)
            field.label = field_types.LABEL_REPEATED if kind.endswith("*") else field_types.LABEL_OPTIONAL
            if scalar in _MESSAGES:
                field.type, field.type_name = field_types.TYPE_MESSAGE, f".alexnet.caffe.{scalar}"
            else:
                field.type = getattr(field_types, f"TYPE_{scalar.upper()}")
            if default:
                field.default_value = default
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"alexnet.caffe.{name}")) for name in _MESSAGES
    }
