"""Rows, steps and sizes: what is proposed, and how a wrong option is refused."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.training.foreign.graphs import info, inspected, model, recurrent, served, summed
from training.foreign.choices import ImportGraphError
from training.foreign.state_names import is_time

TIMES = [
    "time", "t", "T", "seq", "sequence", "frames", "seq_len", "num_frames", "sequence_length",
    "n_steps", "seqLen", "timesteps", "length", "tokens",
]  # fmt: skip


@pytest.mark.parametrize("axis", TIMES)
def test_an_axis_with_a_common_name_is_proposed_as_the_steps(axis):
    spec = served(recurrent(time=axis))
    assert spec.takes_steps
    assert spec.tensors[0].shape == ("time", "batch", 3)
    assert [output.shape for output in spec.outputs] == [("time", 1, "batch", 5)]


@pytest.mark.parametrize("axis", ["past_sequence_length", "batch", "x_dynamic_axes_1", "chunk", ""])
def test_an_axis_with_another_name_is_not(axis):
    assert not is_time(axis)


def test_a_size_goes_before_a_proposal():
    spec = served(recurrent(time="seq"), "--size", "seq=4")
    assert not spec.takes_steps
    assert spec.tensors[0].shape == (4, "batch", 3)
    assert served(recurrent(time="seq"), "--size", "seq=time").takes_steps


def test_an_axis_without_a_telling_name_is_asked_about_with_both_options():
    [question] = inspected(recurrent(time="q")).questions()
    assert str(question).startswith("--size q=N   axis 0 of X float32 [q, batch, 3] is free: how")
    assert "or --time q if it is the steps" in str(question)
    assert served(recurrent(time="q"), "--time", "q").takes_steps
    assert served(recurrent(time="q"), "--time", "X.0").takes_steps


def test_rows_without_a_telling_name_are_asked_about():
    graph = recurrent(time="x_dynamic_axes_1", batch="h_dynamic_axes_1")
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "x_dynamic_axes_2"
    questions = list(map(str, inspected(graph).questions()))
    assert all("--batch-axis X." in question for question in questions)
    spec = served(graph, "--batch-axis", "X.1", "--time", "X.0")
    assert spec.tensors[0].shape == ("time", "batch", 3)


def test_one_row_fixes_the_rows_at_one():
    spec = served(recurrent(), "--one-row")
    assert not spec.takes_rows
    assert spec.tensors[0].shape == ("time", 1, 3)
    assert [state.shape for state in spec.states] == [(1, 1, 5)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--time", "q"], "--time q: no input has such an axis; the free axes are X.0 (seq), X.1"),
        (["--time", "X.7"], "--time X.7: no input has such an axis"),
        (
            ["--time", "X.2"],
            "expected a free axis, found axis 2 of X float32 [seq, batch, 3], which",
        ),
        (["--time", "batch"], "the state initial_h float32 [1, batch, 5] has that axis too"),
        (["--time", "initial_h.1"], "the state initial_h float32 [1, batch, 5] has that axis too"),
        (["--time", "X.1", "--batch-axis", "X.1"], "--time and --batch-axis both name axis 1 of X"),
        (["--size", "X.1=2", "--batch-axis", "X.1"], "--size and --batch-axis both name axis 1 of"),
        (["--size", "q=3"], "--size q: no input has such an axis"),
        (["--size", "X.2=7"], "--size X.2: expected a free axis, found axis 2 of X"),
        (["--size", "seq=0"], "--size 'seq=0': expected a whole number from 1 on"),
        (["--size", "seq=-2"], "expected a whole number from 1 on"),
        (["--size", "seq=1.5"], "expected a whole number from 1 on"),
        (["--size", "seq"], "--size 'seq': expected NAME=VALUE"),
        (["--size", "seq=3", "--size", "seq=4"], "seq=3 was said as well"),
        (["--size", "seq=3", "--time", "seq"], "an axis of steps has no fixed size"),
        (["--batch-axis", "2"], "--batch-axis 2: expected a free axis of the state initial_h"),
        (["--batch-axis", "9"], "of which there are: 1; say"),
        (["--batch-axis", "X.2"], "--batch-axis X.2: expected a free axis"),
        (["--batch-axis", "q"], "--batch-axis q: no input has such an axis"),
        (["--length", "q"], "--length q: the graph has no input 'q'; its inputs are X float32"),
        (["--length", "X"], "--length X: expected whole numbers, one for each row"),
        (["--length", "initial_h"], "--length initial_h: it is said to be a state too"),
        (["--length", "lens", "--size", "seq=1"], "the graph has no axis of steps"),
        (["--constant", "lens=3"], "--constant lens: expected an input of fixed size"),
        (["--constant", "q=3"], "--constant q: the graph has no input 'q'"),
        (["--constant", "initial_h=3"], "--constant initial_h: it is a state too"),
        (["--constant", "lens=nan"], "expected a number, or true or false"),
        (["--overlap", "2"], "the graph has several inputs, X, lens: say --overlap INPUT=N"),
        (["--overlap", "X=3"], "--overlap X=3: expected fewer values than the last axis of X"),
        (["--overlap", "q=3"], "--overlap q: the graph has no input 'q'"),
    ],
)
def test_a_wrong_option_is_refused_with_what_was_expected(options, told):
    with pytest.raises(ImportGraphError) as refused:
        inspected(recurrent(with_length=True), *options).graph_spec("graph/1")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "value", "is_fit"),
    [
        (TensorProto.INT64, "16000", True), (TensorProto.INT64, "1.5", False),
        (TensorProto.UINT8, "300", False), (TensorProto.INT8, "-200", False),
        (TensorProto.FLOAT16, "1e9", False), (TensorProto.BOOL, "true", True),
        (TensorProto.BOOL, "2", False), (TensorProto.INT64, "99999999999999999999", False),
        (TensorProto.FLOAT, "0.5", True), (TensorProto.FLOAT, "1,2", False),
    ],
)  # fmt: skip
def test_a_constant_fits_its_type_or_is_refused(kind, value, is_fit):
    graph = summed({"s": "s_out"}, inputs=[info("k", [], kind)])
    if is_fit:
        assert [spec.name for spec in served(graph, "--constant", f"k={value}").constants] == ["k"]
        return
    with pytest.raises(ImportGraphError, match="--constant k"):
        served(graph, "--constant", f"k={value}")


def test_one_number_fills_a_constant_of_any_fixed_shape_and_several_fit_exactly():
    graph = summed({"s": "s_out"}, inputs=[info("k", [2, 2])])
    assert served(graph, "--constant", "k=3").constants[0].value == [[3, 3], [3, 3]]
    assert served(graph, "--constant", "k=1,2,3,4").constants[0].value == [[1, 2], [3, 4]]
    with pytest.raises(ImportGraphError, match=r"expected 4 values .* found 3"):
        served(graph, "--constant", "k=1,2,3")


def test_the_lengths_of_a_recurrent_node_are_recognised():
    spec = served(recurrent(with_length=True))
    assert spec.input_with("length").name == "lens"
    named = {"lens": "onnx::GRU_3"}
    assert served(recurrent(with_length=True, names=named)).input_with("length")
    fixed = inspected(recurrent(with_length=True, batch=2, time=4))
    assert ["--constant lens=VALUE" in str(each) for each in fixed.questions()] == [True]
    assert served(recurrent(with_length=True, batch=2, time=4), "--constant", "lens=4")


def summed_over_steps(*, keepdims):
    """s' = s + the sum of all steps of x; y is s', without an axis of steps."""
    return model(
        [
            helper.make_node("ReduceSum", ["x", "axis"], ["all"], keepdims=keepdims),
            helper.make_node("Add", ["all", "s"], ["s_out"]),
            helper.make_node("Identity", ["s_out"], ["y"]),
        ],
        [info("x", ["batch", "time", 3]), info("s", ["batch", 3])],
        [info("y", ["batch", 3]), info("s_out", ["batch", 3])],
        [numpy_helper.from_array(np.array([1]), "axis")],
    )


def test_an_answer_without_steps_is_refused_with_the_option_that_serves_it():
    graph = summed_over_steps(keepdims=0)
    with pytest.raises(ImportGraphError, match=r"'y' .* no axis of steps, .* say --size time=1"):
        served(graph)
    assert served(graph, "--size", "time=1").tensors[0].shape == ("batch", 1, 3)


def test_rows_and_steps_in_one_axis_are_refused():
    graph = model(
        [
            helper.make_node("Reshape", ["x", "flat"], ["y"]),
            helper.make_node("ReduceSum", ["x", "axis"], ["all"], keepdims=0),
            helper.make_node("Add", ["all", "s"], ["s_out"]),
        ],
        [info("x", ["batch", "time", 3]), info("s", ["batch", 3])],
        [info("y", ["n", 3]), info("s_out", ["batch", 3])],
        [
            numpy_helper.from_array(np.array([-1, 3]), "flat"),
            numpy_helper.from_array(np.array([1]), "axis"),
        ],
    )
    with pytest.raises(ImportGraphError, match=r"output 'y' is \[4, 3\] for 2 rows of 2 steps"):
        served(graph)


def test_a_state_that_grows_is_refused():
    graph = model(
        [
            helper.make_node("Concat", ["past", "x"], ["present"], axis=1),
            helper.make_node("ReduceSum", ["present", "axis"], ["y"], keepdims=0),
        ],
        [info("x", ["batch", 1, 3]), info("past", ["batch", "past_len", 3])],
        [info("y", ["batch", 3]), info("present", ["batch", "total", 3])],
        [numpy_helper.from_array(np.array([1]), "axis")],
    )
    with pytest.raises(ImportGraphError, match="a cache that grows with each call cannot be"):
        served(graph, "--size", "past_len=4")


def test_a_trial_that_fails_is_refused_with_the_sizes_and_what_to_say():
    graph = recurrent(time="q")
    graph.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "r"
    with pytest.raises(ImportGraphError) as refused:
        served(graph, "--time", "q", "--size", "r=7")
    assert "--size" in str(refused.value)


@pytest.mark.parametrize("name", ["a b", "a\nb", "[red]s[/x]", "\x1b[31ms", "состояние", "a=b"])
def test_a_name_that_no_client_can_send_is_refused_with_how_to_rename(name):
    with pytest.raises(
        ImportGraphError, match=r"expected up to 128 letters.*export it with another"
    ):
        inspected(summed({name: "s_out"}))


@pytest.mark.parametrize("size", [2**23, 2**40, 2**62])
def test_sizes_that_no_check_can_hold_are_refused_before_anything_is_allocated(size):
    with pytest.raises(ImportGraphError, match="expected at most 16,777,216"):
        served(summed({"s": "s_out"}, shape=["batch", size]))
