"""llama.cpp through its C interface: a model file, and decoding without any sampling."""

import ctypes

import llama_cpp as api
import numpy


@api.llama_log_callback
def _drop(_level, _text, _data):
    pass


class Model:
    """A GGUF file in llama.cpp, its weights as that program prefers them."""

    def __init__(self, path):
        api.llama_log_set(_drop, ctypes.c_void_p(0))
        api.llama_backend_init()
        self.model = api.llama_model_load_from_file(
            str(path).encode(), api.llama_model_default_params()
        )
        if not self.model:
            raise RuntimeError(f"llama.cpp does not open {path}")
        self.vocabulary = api.llama_model_get_vocab(self.model)
        self.tokens = api.llama_vocab_n_tokens(self.vocabulary)

    def close(self):
        api.llama_model_free(self.model)

    def tokenize(self, text, special=False):
        data = text.encode()
        ids = (api.llama_token * (len(data) + 8))()
        count = api.llama_tokenize(
            self.vocabulary, data, len(data), ids, len(ids), special, special
        )
        assert count >= 0, count
        return list(ids[:count])

    def detokenize(self, ids):
        given = (api.llama_token * len(ids))(*ids)
        text = ctypes.create_string_buffer(64 * len(ids) + 64)
        count = api.llama_detokenize(
            self.vocabulary, given, len(ids), text, len(text), False, False
        )
        assert count >= 0, count
        return text.raw[:count]


class Context:
    """One sequence. Physical batches of 512 rows, llama.cpp's default. A Transformer's keys and
    values are f16 there unless `exact`."""

    def __init__(self, model, context_length=1024, threads=1, exact=False):
        self.model = model
        parameters = api.llama_context_default_params()
        parameters.n_ctx = context_length
        parameters.n_batch = parameters.n_ubatch = 512
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.no_perf = True
        if exact:
            parameters.type_k = parameters.type_v = api.GGML_TYPE_F32
            parameters.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = api.llama_init_from_model(model.model, parameters)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context")

    def close(self):
        api.llama_free(self.context)

    def set_threads(self, threads):
        api.llama_set_n_threads(self.context, threads, threads)

    def clear(self):
        api.llama_memory_clear(api.llama_get_memory(self.context), True)

    def decode(self, ids):
        """Goes on with these tokens; the last one's logits are computed. Returns when they are."""
        given = (api.llama_token * len(ids))(*ids)
        status = api.llama_decode(self.context, api.llama_batch_get_one(given, len(ids)))
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")
        api.llama_synchronize(self.context)

    def logits(self):
        """Of the last token."""
        pointer = api.llama_get_logits_ith(self.context, -1)
        return numpy.ctypeslib.as_array(pointer, (self.model.tokens,)).copy()
