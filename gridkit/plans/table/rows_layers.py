"""Rows of the op table for what layers are made of; `gridkit.plans.table.ops` says how a row is read."""

from __future__ import annotations

from gridkit.plans.table import shapes_index, shapes_layers, shapes_order
from gridkit.plans.table.shapes import Rule

LAYERS: tuple[tuple[Rule, str], ...] = (
    (
        shapes_layers.matmul,
        """
        aten.mm.default(Tensor self, Tensor mat2) -> Tensor
        aten.bmm.default(Tensor self, Tensor mat2) -> Tensor
        aten.baddbmm.default(Tensor self, Tensor batch1, Tensor batch2, *, Scalar beta=1, Scalar alpha=1) -> Tensor
        aten.addmm.default(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor
        """,
    ),
    (
        shapes_layers.convolution,
        "aten.convolution.default(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, "
        "int[] dilation, bool transposed, int[] output_padding, int groups) -> Tensor",
    ),
    (
        shapes_layers.convolution_backward,
        "aten.convolution_backward.default(Tensor grad_output, Tensor input, Tensor weight, int[]? bias_sizes, "
        "int[] stride, int[] padding, int[] dilation, bool transposed, int[] output_padding, int groups, "
        "bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
    ),
    (
        shapes_layers.max_pool,
        "aten.max_pool2d_with_indices.default(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, "
        "int[2] dilation=1, bool ceil_mode=False) -> (Tensor, Tensor)",
    ),
    (
        shapes_layers.max_pool_backward,
        "aten.max_pool2d_with_indices_backward.default(Tensor grad_output, Tensor self, int[2] kernel_size, "
        "int[2] stride, int[2] padding, int[2] dilation, bool ceil_mode, Tensor indices) -> Tensor",
    ),
    (
        shapes_layers.avg_pool,
        "aten.avg_pool2d.default(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, "
        "bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None) -> Tensor",
    ),
    (
        shapes_layers.avg_pool_backward,
        "aten.avg_pool2d_backward.default(Tensor grad_output, Tensor self, int[2] kernel_size, int[2] stride, "
        "int[2] padding, bool ceil_mode, bool count_include_pad, int? divisor_override) -> Tensor",
    ),
    (shapes_layers.adaptive_pool, "aten._adaptive_avg_pool2d.default(Tensor self, int[2] output_size) -> Tensor"),
    (
        shapes_layers.adaptive_pool_backward,
        "aten._adaptive_avg_pool2d_backward.default(Tensor grad_output, Tensor self) -> Tensor",
    ),
    (shapes_layers.prelu, "aten._prelu_kernel.default(Tensor self, Tensor weight) -> Tensor"),
    (
        shapes_layers.prelu_backward,
        "aten._prelu_kernel_backward.default(Tensor grad_output, Tensor self, Tensor weight) -> (Tensor, Tensor)",
    ),
    (
        shapes_layers.layer_norm,
        "aten.native_layer_norm.default(Tensor input, int[] normalized_shape, Tensor? weight, Tensor? bias, float eps) "
        "-> (Tensor, Tensor, Tensor)",
    ),
    (
        shapes_layers.layer_norm_backward,
        "aten.native_layer_norm_backward.default(Tensor grad_out, Tensor input, int[] normalized_shape, Tensor mean, "
        "Tensor rstd, Tensor? weight, Tensor? bias, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
    ),
    (
        shapes_layers.group_norm,
        "aten.native_group_norm.default(Tensor input, Tensor? weight, Tensor? bias, int N, int C, int HxW, int group, "
        "float eps) -> (Tensor, Tensor, Tensor)",
    ),
    (
        shapes_layers.group_norm_backward,
        "aten.native_group_norm_backward.default(Tensor grad_out, Tensor input, Tensor mean, Tensor rstd, "
        "Tensor? weight, int N, int C, int HxW, int group, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
    ),
    (
        shapes_layers.softmax,
        """
        aten._softmax.default(Tensor self, int dim, bool half_to_float) -> Tensor
        aten._log_softmax.default(Tensor self, int dim, bool half_to_float) -> Tensor
        """,
    ),
    (
        shapes_layers.softmax_backward,
        """
        aten._softmax_backward_data.default(Tensor grad_output, Tensor output, int dim, dtype input_dtype) -> Tensor
        aten._log_softmax_backward_data.default(Tensor grad_output, Tensor output, int dim, dtype input_dtype) ->
            Tensor
        """,
    ),
    (
        shapes_layers.nll,
        """
        aten.nll_loss_forward.default(Tensor self, Tensor target, Tensor? weight, int reduction, int ignore_index)
            -> (Tensor, Tensor)
        aten.nll_loss2d_forward.default(Tensor self, Tensor target, Tensor? weight, int reduction, int ignore_index)
            -> (Tensor, Tensor)
        """,
    ),
    (
        shapes_layers.nll_backward,
        """
        aten.nll_loss_backward.default(Tensor grad_output, Tensor self, Tensor target, Tensor? weight, int
            reduction, int ignore_index, Tensor total_weight) -> Tensor
        aten.nll_loss2d_backward.default(Tensor grad_output, Tensor self, Tensor target, Tensor? weight, int
            reduction, int ignore_index, Tensor total_weight) -> Tensor
        """,
    ),
    (
        shapes_layers.elementwise_loss,
        """
        aten.mse_loss.default(Tensor self, Tensor target, int reduction=1) -> Tensor
        aten.smooth_l1_loss.default(Tensor self, Tensor target, int reduction=1, float beta=1.0) -> Tensor
        aten.huber_loss.default(Tensor self, Tensor target, int reduction=1, float delta=1.0) -> Tensor
        aten.binary_cross_entropy.default(Tensor self, Tensor target, Tensor? weight=None, int reduction=1) -> Tensor
        aten.binary_cross_entropy_with_logits.default(Tensor self, Tensor target, Tensor? weight=None, Tensor?
            pos_weight=None, int reduction=1) -> Tensor
        """,
    ),
    (
        shapes_layers.elementwise_loss_backward,
        """
        aten.mse_loss_backward.default(Tensor grad_output, Tensor self, Tensor target, int reduction) -> Tensor
        aten.smooth_l1_loss_backward.default(Tensor grad_output, Tensor self, Tensor target, int reduction, float
            beta) -> Tensor
        aten.huber_loss_backward.default(Tensor grad_output, Tensor self, Tensor target, int reduction, float delta)
            -> Tensor
        aten.binary_cross_entropy_backward.default(Tensor grad_output, Tensor self, Tensor target, Tensor?
            weight=None, int reduction=1) -> Tensor
        """,
    ),
    (
        shapes_layers.reduce,
        """
        aten.sum.default(Tensor self, *, dtype? dtype=None) -> Tensor
        aten.sum.dim_IntList(Tensor self, int[1]? dim, bool keepdim=False, *, dtype? dtype=None) -> Tensor
        """,
    ),
    (
        shapes_layers.mean,
        """
        aten.mean.default(Tensor self, *, dtype? dtype=None) -> Tensor
        aten.mean.dim(Tensor self, int[1]? dim, bool keepdim=False, *, dtype? dtype=None) -> Tensor
        """,
    ),
    (
        shapes_layers.batch_norm,
        """
        aten._native_batch_norm_legit_functional.default(Tensor input, Tensor? weight, Tensor? bias,
            Tensor running_mean, Tensor running_var, bool training, float momentum, float eps)
            -> (Tensor, Tensor, Tensor, Tensor, Tensor)
        aten._native_batch_norm_legit.no_stats(Tensor input, Tensor? weight, Tensor? bias, bool training,
            float momentum, float eps) -> (Tensor, Tensor, Tensor)
        aten._native_batch_norm_legit_no_training.default(Tensor input, Tensor? weight, Tensor? bias,
            Tensor running_mean, Tensor running_var, float momentum, float eps) -> (Tensor, Tensor, Tensor)
        """,
    ),
    (
        shapes_layers.batch_norm_backward,
        "aten.native_batch_norm_backward.default(Tensor grad_out, Tensor input, Tensor? weight, Tensor? running_mean, "
        "Tensor? running_var, Tensor? save_mean, Tensor? save_invstd, bool train, float eps, bool[3] output_mask) "
        "-> (Tensor, Tensor, Tensor)",
    ),
    (
        shapes_layers.attention,
        "aten._scaled_dot_product_flash_attention_for_cpu.default(Tensor query, Tensor key, Tensor value, "
        "float dropout_p=0.0, bool is_causal=False, *, Tensor? attn_mask=None, float? scale=None) -> (Tensor, Tensor)",
    ),
    (
        shapes_layers.attention_backward,
        "aten._scaled_dot_product_flash_attention_for_cpu_backward.default(Tensor grad_out, Tensor query, Tensor key, "
        "Tensor value, Tensor out, Tensor logsumexp, float dropout_p, bool is_causal, *, Tensor? attn_mask=None, "
        "float? scale=None) -> (Tensor, Tensor, Tensor)",
    ),
    (shapes_layers.safe_softmax, "aten._safe_softmax.default(Tensor self, int dim, dtype? dtype=None) -> Tensor"),
    (shapes_layers.glu, "aten.glu.default(Tensor self, int dim=-1) -> Tensor"),
    (shapes_layers.glu_backward, "aten.glu_backward.default(Tensor grad_output, Tensor self, int dim) -> Tensor"),
    (
        shapes_layers.upsample,
        "aten.upsample_nearest2d.default(Tensor self, int[2] output_size, float? scales_h=None, float? scales_w=None) "
        "-> Tensor",
    ),
    (
        shapes_layers.upsample_backward,
        "aten.upsample_nearest2d_backward.default(Tensor grad_output, int[2] output_size, int[4] input_size, "
        "float? scales_h=None, float? scales_w=None) -> Tensor",
    ),
    (shapes_layers.pixel_shuffle, "aten.pixel_shuffle.default(Tensor self, int upscale_factor) -> Tensor"),
    (shapes_layers.pixel_unshuffle, "aten.pixel_unshuffle.default(Tensor self, int downscale_factor) -> Tensor"),
    (
        shapes_layers.adaptive_max_pool,
        "aten.adaptive_max_pool2d.default(Tensor self, int[2] output_size) -> (Tensor, Tensor)",
    ),
    (
        shapes_layers.adaptive_max_pool_backward,
        "aten.adaptive_max_pool2d_backward.default(Tensor grad_output, Tensor self, Tensor indices) -> Tensor",
    ),
    (
        shapes_order.extreme,
        """
        aten.amax.default(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor
        aten.amin.default(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor
        """,
    ),
    (
        shapes_order.extreme_of_dim,
        """
        aten.max.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor, Tensor)
        aten.min.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor, Tensor)
        """,
    ),
    (
        shapes_order.index_of_extreme,
        """
        aten.argmax.default(Tensor self, int? dim=None, bool keepdim=False) -> Tensor
        aten.argmin.default(Tensor self, int? dim=None, bool keepdim=False) -> Tensor
        """,
    ),
    (
        shapes_layers.mean,
        """
        aten.var.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> Tensor
        aten.std.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> Tensor
        aten.logsumexp.default(Tensor self, int[1] dim, bool keepdim=False) -> Tensor
        aten.linalg_vector_norm.default(Tensor self, Scalar ord=2, int[1]? dim=None, bool keepdim=False, *,
            dtype? dtype=None) -> Tensor
        """,
    ),
    (shapes_order.middle, "aten.median.default(Tensor self) -> Tensor"),
    (shapes_order.middle_of_dim, "aten.median.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor, Tensor)"),
    (
        shapes_order.sorted_,
        "aten.sort.default(Tensor self, int dim=-1, bool descending=False) -> (Tensor, Tensor)",
    ),
    (
        shapes_order.largest,
        "aten.topk.default(Tensor self, int k, int dim=-1, bool largest=True, bool sorted=True) -> (Tensor, Tensor)",
    ),
    (shapes_layers.cumulated, "aten.cumsum.default(Tensor self, int dim, *, dtype? dtype=None) -> Tensor"),
    (
        shapes_index.embedding,
        "aten.embedding.default(Tensor weight, Tensor indices, int padding_idx=-1, bool scale_grad_by_freq=False, "
        "bool sparse=False) -> Tensor",
    ),
    (
        shapes_index.embedding_backward,
        "aten.embedding_dense_backward.default(Tensor grad_output, Tensor indices, int num_weights, int padding_idx, "
        "bool scale_grad_by_freq) -> Tensor",
    ),
    (
        shapes_index.gather,
        "aten.gather.default(Tensor self, int dim, Tensor index, *, bool sparse_grad=False) -> Tensor",
    ),
    (
        shapes_index.scatter,
        """
        aten.scatter.src(Tensor self, int dim, Tensor index, Tensor src) -> Tensor
        aten.scatter_add.default(Tensor self, int dim, Tensor index, Tensor src) -> Tensor
        """,
    ),
    (shapes_index.index_select, "aten.index_select.default(Tensor self, int dim, Tensor index) -> Tensor"),
    (
        shapes_index.index_add,
        "aten.index_add.default(Tensor self, int dim, Tensor index, Tensor source, *, Scalar alpha=1) -> Tensor",
    ),
)
