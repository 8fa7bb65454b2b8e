from workers.backends.onnx_work import count_work


def kernel(operator, inputs, outputs, *, moved=(0, 0)):
    return {
        "cat": "Node",
        "name": f"{operator}_kernel_time",
        "args": {
            "op_name": operator,
            "input_type_shape": [{"float": shape} for shape in inputs],
            "output_type_shape": [{"float": shape} for shape in outputs],
            "activation_size": str(moved[0]),
            "output_size": str(moved[1]),
        },
    }


def test_products_and_convolutions_are_counted_per_row():
    events = [
        kernel("MatMul", [[2, 8, 64], [64, 10]], [[2, 8, 10]], moved=(100, 60)),
        kernel("Conv", [[2, 3, 32, 32], [16, 3, 3, 3], [16]], [[2, 16, 32, 32]], moved=(10, 20)),
        kernel("ConvTranspose", [[2, 4, 8, 8], [4, 2, 2, 2]], [[2, 2, 16, 16]]),
        kernel("Relu", [[2, 10]], [[2, 10]], moved=(8, 8)),
        kernel("Shape", [[]], [[]]),
        {"cat": "Session", "name": "model_run"},
    ]
    work = count_work(events, 2)
    products = 2 * (8 * 10 * 64) + 2 * (16 * 32 * 32 * 27) + 2 * (4 * 8 * 8 * 8)
    assert (work.flops, work.kernels) == (products, 5)
    assert (work.moved_bytes, work.peak_bytes) == (103.0, 80.0)


def test_filters_are_found_behind_the_scales_of_quantised_convolutions():
    inputs = [[2, 3, 8, 8], [], [], [4, 3, 1, 1], [], []]
    assert count_work([kernel("QLinearConv", inputs, [[2, 4, 8, 8]])], 2).flops == 2 * 4 * 64 * 3


def test_a_run_without_kernels_is_no_work():
    assert count_work([], 2).kernels == 0
