"""The scan finds every tensor with external data, wherever it is in the graph."""

import pytest
from onnx import ModelProto, TensorProto, helper

from service.contract.errors import BundleError
from service.contract.graph_scan import refuse_external_data


def inside():
    return helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])


def outside():
    tensor = inside()
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    return tensor


def outside_by_location_alone():
    tensor = inside()
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def outside_by_entry_alone():
    tensor = inside()
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def sparse(values, indices):
    indices.data_type = TensorProto.INT64
    return helper.make_sparse_tensor(values, indices, [1])


def node_with(value):
    node = helper.make_node("Constant", [], ["y"])
    node.attribute.append(helper.make_attribute("value", value))
    return node


def model_of(nodes=(), initializer=(), sparse_initializer=()):
    graph = helper.make_graph(list(nodes), "g", [], [], list(initializer))
    graph.sparse_initializer.extend(sparse_initializer)
    return helper.make_model(graph)


def in_initializer(tensor):
    return model_of(initializer=[inside(), tensor])


def in_values_of_sparse_initializer(tensor):
    return model_of(sparse_initializer=[sparse(tensor, inside())])


def in_indices_of_sparse_initializer(tensor):
    return model_of(sparse_initializer=[sparse(inside(), tensor)])


def in_attribute(tensor):
    return model_of([node_with(tensor)])


def in_list_of_attribute(tensor):
    return model_of([node_with([inside(), tensor])])


def in_sparse_attribute(tensor):
    return model_of([node_with(sparse(tensor, inside()))])


def in_list_of_sparse_attribute(tensor):
    return model_of([node_with([sparse(tensor, inside())])])


def in_list_of_sub_graphs(tensor):
    graph = helper.make_graph([node_with(tensor)], "inner", [], [])
    return model_of([node_with([graph])])


def in_function(tensor):
    model = model_of()
    opset = helper.make_opsetid("", 17)
    model.functions.append(helper.make_function("d", "f", [], ["y"], [node_with(tensor)], [opset]))
    return model


def in_default_attribute_of_function(tensor):
    model = in_function(inside())
    model.functions[0].attribute_proto.append(helper.make_attribute("value", tensor))
    return model


def in_training_graph(tensor):
    model = model_of()
    model.training_info.add().initialization.CopyFrom(in_initializer(tensor).graph)
    return model


def in_training_algorithm(tensor):
    model = model_of()
    model.training_info.add().algorithm.CopyFrom(in_initializer(tensor).graph)
    return model


LOCATIONS = [
    in_initializer,
    in_values_of_sparse_initializer,
    in_indices_of_sparse_initializer,
    in_attribute,
    in_list_of_attribute,
    in_sparse_attribute,
    in_list_of_sparse_attribute,
    in_list_of_sub_graphs,
    in_function,
    in_default_attribute_of_function,
    in_training_graph,
    in_training_algorithm,
]


@pytest.mark.parametrize("put", LOCATIONS)
def test_external_data_is_found_wherever_it_hides(put):
    with pytest.raises(BundleError, match="outside the file"):
        refuse_external_data(put(outside()).SerializeToString(), "g")


@pytest.mark.parametrize("put", LOCATIONS)
def test_internal_data_is_accepted_in_the_same_place(put):
    refuse_external_data(put(inside()).SerializeToString(), "g")


@pytest.mark.parametrize("tensor", [outside_by_location_alone(), outside_by_entry_alone()])
def test_either_sign_of_external_data_is_enough(tensor):
    with pytest.raises(BundleError, match="outside the file"):
        refuse_external_data(in_initializer(tensor).SerializeToString(), "g")


def test_a_tensor_with_the_default_location_is_internal_data():
    tensor = inside()
    tensor.data_location = TensorProto.DEFAULT
    refuse_external_data(in_initializer(tensor).SerializeToString(), "g")


def nested(depth):
    graph = helper.make_graph([], "g", [], [])
    for _ in range(depth):
        graph = helper.make_graph([node_with(graph)], "g", [], [])
    return ModelProto(graph=graph).SerializeToString()


def test_sub_graphs_may_be_nested_up_to_a_limit():
    refuse_external_data(nested(20), "g")
    with pytest.raises(BundleError, match="nested at most"):
        refuse_external_data(nested(22), "g")
