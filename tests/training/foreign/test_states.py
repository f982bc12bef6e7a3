"""Which input takes up which output, and what is asked where that is not certain."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.training.foreign.graphs import info, inspected, model, recurrent, served, summed
from training.foreign.choices import ImportGraphError
from training.foreign.state_names import is_next

PAIRS = [
    ("initial_h", "Y_h"), ("hx", "hy"), ("cx", "cy"), ("h0", "hn"), ("h_0", "h_n"), ("h", "h_out"),
    ("prev_h", "next_h"), ("h_prev", "h_next"), ("prev", "next"), ("past", "present"),
    ("past_key", "present_key"), ("past.0.k", "present.0.k"), ("in_h", "out_h"), ("h_in", "h_out"),
    ("old_state", "new_state"), ("old", "new"), ("state", "stateN"), ("state", "next_state"),
    ("states", "new_states"), ("initial_state", "final_state"), ("init_h", "last_h"),
    ("inputState", "outputState"), ("h_tm1", "h_t"), ("x", "x_next"), ("h_prev", "h"),
    ("conv_cache", "conv_cache_out"), ("vad_gru_prev_state", "vad_gru_state"),
    ("input_states_1", "output_states_1"), ("cached_len_0", "new_cached_len_0"),
    ("attention_hidden", "out_attention_hidden"), ("onnx::h", "hn"),
    ("serving_default_h:0", "StatefulPartitionedCall_h_out:0"),
]  # fmt: skip
STRANGERS = [
    ("x", "y"), ("input", "output"), ("input_1", "output_1"), ("audio_in", "audio_out"),
    ("x", "x_out"), ("h", "cn"), ("hx", "cy"), ("prev_h", "next_c"), ("in", "out"), ("X", "Y_h"),
    ("decoder_input", "decoder_output"), ("lstm_in", "lstm_out"), ("gain", "y"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_common_names_of_a_state_are_recognised(before, after):
    assert is_next(before, after)


@pytest.mark.parametrize(("before", "after"), STRANGERS)
def test_names_of_observations_and_answers_are_not_a_state(before, after):
    assert not is_next(before, after)


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_graph_with_common_names_needs_no_option(before, after):
    x = "x" if before != "x" else "u"
    assert inspected(summed({before: after}, x=x)).states == {before: after}


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_recurrent_nodes_tell_their_states_whatever_their_names(op):
    names = {"initial_h": "onnx::A_1", "Y_h": "34", "initial_c": "onnx::B:2", "Y_c": "35"}
    expected = {"onnx::A_1": "34"} | ({"onnx::B:2": "35"} if op == "LSTM" else {})
    assert inspected(recurrent(op, names=names)).states == expected


@pytest.mark.parametrize("text", ["onnx::LSTM_1=a:b", "onnx::LSTM_1:a:b"])
def test_names_with_colons_can_be_said_in_both_ways(text):
    graph = summed({"onnx::LSTM_1": "a:b"})
    assert inspected(graph, "--state", text).states == {"onnx::LSTM_1": "a:b"}


def test_a_text_that_reads_in_two_ways_is_refused_with_both():
    graph = summed({"a": "b:c", "a:b": "c"})
    with pytest.raises(ImportGraphError, match=r"reads as a=b:c and as a:b=c; say INPUT=OUTPUT"):
        inspected(graph, "--state", "a:b:c")
    assert inspected(graph, "--state", "a=b:c", "--state", "a:b=c").states == {
        "a": "b:c",
        "a:b": "c",
    }


@pytest.mark.parametrize("text", ["", "h", "=", "=hn", ":", "h:", ":hn"])
def test_a_state_that_does_not_read_is_refused_with_the_syntax(text):
    with pytest.raises(ImportGraphError, match="expected INPUT=OUTPUT"):
        inspected(recurrent(), "--state", text)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--state", "q=Y_h"], "no input 'q'; its inputs are X float32"),
        (["--state", "initial_h=q"], "no output 'q'; its outputs are Y float32"),
        (["--state", "X=Y_h"], "X=Y_h: expected an output of one type and shape with X"),
        (["--state", "initial_h=Y_h", "--state", "initial_h=Y_c"], "say one of them"),
        (["--state", "initial_h=Y_h", "--state", "initial_c=Y_h"], "an output of its own"),
        (["--state", "initial_h=Y_c", "--state", "initial_c=Y_h"], "nodes say initial_h=Y_h"),
    ],
)
def test_states_that_the_graph_contradicts_are_refused(options, told):
    with pytest.raises(ImportGraphError, match=told):
        inspected(recurrent("LSTM"), *options)


def asked(inspection):
    return "\n".join(map(str, inspection.questions()))


def test_the_c_of_an_lstm_is_paired_or_asked_for_if_only_h_is_said():
    known, unknown = recurrent("LSTM"), lstm_cell()
    both = {"initial_h": "Y_h", "initial_c": "Y_c"}
    assert inspected(known, "--state", "initial_h=Y_h").states == both
    told = asked(inspected(unknown, "--state", "p=s"))
    assert "--state q=OUTPUT   'q' looks like a state: which output follows it? one of y, r" in told
    assert "or --state q= if 'q' is not a state" in told
    assert inspected(unknown, "--state", "p=s", "--state", "q=").states == {"p": "s"}
    assert inspected(unknown, "--state", "p=s", "--state", "q=r").questions() == []


def lstm_cell():
    """As an exporter that takes cells apart writes it: nothing but names tell."""
    nodes = [
        helper.make_node("MatMul", ["frame", "w"], ["z"]),
        helper.make_node("Add", ["z", "p"], ["g"]),
        helper.make_node("Sigmoid", ["g"], ["f"]),
        helper.make_node("Mul", ["f", "q"], ["r"]),
        helper.make_node("Tanh", ["r"], ["s"]),
        helper.make_node("Identity", ["s"], ["y"]),
    ]
    state = ["batch", 4]
    return model(
        nodes,
        [info("frame", ["batch", 3]), info("p", state), info("q", state)],
        [info("y", state), info("r", state), info("s", state)],
        [numpy_helper.from_array(np.ones((3, 4), np.float32), "w")],
    )


def test_an_lstm_that_keeps_its_c_to_itself_is_refused():
    with pytest.raises(ImportGraphError, match=r"starts its c from zeros in every call: export"):
        inspected(recurrent("LSTM", with_c=False))


def test_an_input_that_begins_a_state_without_an_end_is_refused():
    graph = recurrent("LSTM")
    del graph.graph.output[2]
    with pytest.raises(ImportGraphError, match="'initial_c' is where LSTM begins its c, but no"):
        inspected(graph)


def test_a_graph_without_state_is_refused_with_what_to_export():
    graph = recurrent("GRU")
    graph.graph.node[0].input[5] = ""
    del graph.graph.input[1]
    with pytest.raises(ImportGraphError, match="GRU starts from zeros in every call: no input"):
        inspected(graph)


def test_the_only_candidate_is_offered_where_no_name_tells():
    graph = summed({"st_0": "stack"})
    assert "--state INPUT=OUTPUT" in asked(inspected(graph))
    wide = model(
        [helper.make_node("Add", ["q", "one"], ["r"]), helper.make_node("Identity", ["x"], ["y"])],
        [info("x", ["batch", 3]), info("q", ["batch", 4])],
        [info("y", ["batch", 3]), info("r", ["batch", 4])],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    wide.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    assert "--state q=r   q float32 [batch, 4] may be the state that r gives" in asked(
        inspected(wide)
    )


def test_an_input_may_be_said_to_be_no_state():
    graph = summed({"h": "h_out", "m": "m_out"})
    assert inspected(graph, "--state", "m=").states == {"h": "h_out"}
    assert [spec.name for spec in served(graph, "--state", "m=").tensors] == ["x", "m"]


def test_rivals_for_one_output_are_asked_about():
    graph = summed({"h": "h_out"}, inputs=[info("h_in", ["batch", 3])])
    inspection = inspected(graph)
    assert inspection.states == {}
    assert inspected(graph, "--state", "h=h_out", "--state", "h_in=").states == {"h": "h_out"}
