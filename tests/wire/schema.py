"""syft-proto's State and Plan in google.protobuf, from the field numbers: what others read and write."""

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
    "PlaceholderId": [("id", 1, "Id", False)],
    "ArgList": [("args", 1, "Arg", True)],
    "Arg": [
        ("arg_bool", 1, "bool", False),
        ("arg_int", 2, "int64", False),
        ("arg_float", 3, "float", False),
        ("arg_str", 4, "string", False),
        ("arg_shape", 5, "Size", False),
        ("arg_tensor", 6, "TorchTensor", False),
        ("arg_torch_param", 7, "Parameter", False),
        ("arg_placeholder", 9, "Placeholder", False),
        ("arg_placeholder_id", 10, "PlaceholderId", False),
        ("arg_list", 11, "ArgList", False),
    ],
    "ComputationAction": [
        ("command", 1, "string", False),
        ("target_placeholder_id", 3, "PlaceholderId", False),
        ("target_tensor", 4, "TorchTensor", False),
        ("target_id", 9, "Id", False),
        ("args", 5, "Arg", True),
        ("return_ids", 7, "Id", True),
        ("return_placeholder_ids", 8, "PlaceholderId", True),
    ],
    "Role": [
        ("id", 1, "Id", False),
        ("actions", 2, "ComputationAction", True),
        ("state", 3, "State", False),
        ("placeholders", 4, "Placeholder", True),
        ("input_placeholder_ids", 5, "Id", True),
        ("output_placeholder_ids", 6, "Id", True),
        ("tags", 7, "string", True),
        ("description", 8, "string", False),
    ],
    "Plan": [
        ("id", 1, "Id", False),
        ("role", 2, "Role", False),
        ("include_state", 3, "bool", False),
        ("name", 4, "string", False),
        ("tags", 5, "string", True),
        ("description", 6, "string", False),
        ("torchscript", 7, "bytes", False),
        ("base_framework", 9, "string", False),
    ],
}
_ONEOFS = {
    "Id": ["id_int", "id_str"],
    "StateTensor": ["torch_tensor", "torch_param"],
    "Arg": [name for name, *_ in _MESSAGES["Arg"]],
    "ComputationAction": ["target_placeholder_id", "target_tensor", "target_id"],
}


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
Plan = CLASSES["Plan"]
