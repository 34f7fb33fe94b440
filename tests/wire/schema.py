"""syft-proto's State in google.protobuf, from the field numbers: what others read and write, for comparison."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_KINDS = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "int32": _KINDS.TYPE_INT32,
    "int64": _KINDS.TYPE_INT64,
    "uint32": _KINDS.TYPE_UINT32,
    "float": _KINDS.TYPE_FLOAT,
    "double": _KINDS.TYPE_DOUBLE,
    "bool": _KINDS.TYPE_BOOL,
    "string": _KINDS.TYPE_STRING,
    "bytes": _KINDS.TYPE_BYTES,
}
# message -> (name, number, type, repeated); a type that is no scalar is a message
_MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    "Id": [("id_int", 1, "int64", False), ("id_str", 2, "string", False)],
    "Size": [("dims", 1, "int32", True)],
    "TensorData": [
        ("shape", 1, "Size", False),
        ("dtype", 2, "string", False),
        ("is_quantized", 3, "bool", False),
        ("scale", 4, "float", False),
        ("zero_point", 5, "int32", False),
        ("contents_uint8", 16, "uint32", True),
        ("contents_int8", 17, "int32", True),
        ("contents_int16", 18, "int32", True),
        ("contents_int32", 19, "int32", True),
        ("contents_int64", 20, "int64", True),
        ("contents_float16", 21, "float", True),
        ("contents_float32", 22, "float", True),
        ("contents_float64", 23, "double", True),
        ("contents_bool", 24, "bool", True),
    ],
    "TorchTensor": [
        ("id", 1, "Id", False),
        ("contents_data", 2, "TensorData", False),
        ("contents_bin", 3, "bytes", False),
        ("chain", 4, "TorchTensor", False),
        ("grad_chain", 5, "TorchTensor", False),
        ("tags", 6, "string", True),
        ("description", 7, "string", False),
        ("serializer", 8, "int32", False),
    ],
    "Parameter": [
        ("id", 1, "Id", False),
        ("tensor", 2, "TorchTensor", False),
        ("requires_grad", 3, "bool", False),
        ("grad", 4, "TorchTensor", False),
    ],
    "Placeholder": [
        ("child_tensor", 1, "TorchTensor", False),
        ("child_parameter", 2, "Parameter", False),
        ("id", 3, "Id", False),
        ("tags", 4, "string", True),
        ("description", 5, "string", False),
        ("expected_shape", 6, "Size", False),
    ],
    "StateTensor": [("torch_tensor", 1, "TorchTensor", False), ("torch_param", 2, "Parameter", False)],
    "State": [("placeholders", 1, "Placeholder", True), ("tensors", 2, "StateTensor", True)],
}
_ONEOFS = {"Id": ["id_int", "id_str"], "StateTensor": ["torch_tensor", "torch_param"]}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="state.proto", package="t", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name in _ONEOFS:
            message.oneof_decl.add(name="which")
        for field_name, number, kind, repeated in fields:
            label = _KINDS.LABEL_REPEATED if repeated else _KINDS.LABEL_OPTIONAL
            field = message.field.add(name=field_name, number=number, label=label)
            if kind in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type, field.type_name = _KINDS.TYPE_MESSAGE, f".t.{kind}"
            if field_name in _ONEOFS.get(name, ()):
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}")) for name in _MESSAGES}


CLASSES = _classes()
State = CLASSES["State"]
