"""ITREX's numbers for what can go wrong; every exception of neuralbot carries one as `.code`."""

from __future__ import annotations


class ErrorCodes:
    """The numbers by ITREX's names, and a sentence for each of them, 0 included, in `error_strings`."""

    SUCCESS = 0

    ERROR_OUT_OF_MEMORY = 1001
    ERROR_DEVICE_BUSY = 1002
    ERROR_DEVICE_NOT_FOUND = 1003
    ERROR_OUT_OF_STORAGE = 1004
    ERROR_DEVICE_NOT_SUPPORTED = 1005
    ERROR_PLUGIN_NOT_SUPPORTED = 1006

    ERROR_MODEL_NOT_FOUND = 2001
    ERROR_MODEL_CONFIG_NOT_FOUND = 2002
    ERROR_TOKENIZER_NOT_FOUND = 2003
    ERROR_CACHE_DIR_NO_WRITE_PERMISSION = 2004
    ERROR_INVALID_MODEL_VERSION = 2005
    ERROR_MODEL_NOT_SUPPORTED = 2006
    ERROR_HF_TOKEN_NOT_PROVIDED = 2007
    WARNING_INPUT_EXCEED_MAX_SEQ_LENGTH = 2101
    WARNING_INPUT_COMPLETION_EXCEED_MAX_SEQ_LENGTH = 2102

    ERROR_DATASET_NOT_FOUND = 3001
    ERROR_DATASET_CONFIG_NOT_FOUND = 3002
    ERROR_VALIDATION_FILE_NOT_FOUND = 3003
    ERROR_TRAIN_FILE_NOT_FOUND = 3004
    ERROR_DATASET_CACHE_DIR_NO_WRITE_PERMISSION = 3005

    ERROR_PTUN_FINETUNE_FAIL = 4001
    ERROR_LORA_FINETUNE_FAIL = 4002
    ERROR_LLAMA_ADAPTOR_FINETUNE_FAIL = 4003
    ERROR_PREFIX_FINETUNE_FAIL = 4004
    ERROR_PROMPT_FINETUNE_FAIL = 4005

    ERROR_WEIGHT_ONLY_QUANT_OPTIMIZATION_FAIL = 5001
    ERROR_AMP_OPTIMIZATION_FAIL = 5002
    ERROR_AUDIO_FORMAT_NOT_SUPPORTED = 5003
    ERROR_RETRIEVAL_DOC_FORMAT_NOT_SUPPORTED = 5004
    ERROR_SENSITIVE_CHECK_FILE_NOT_FOUND = 5005
    ERROR_MEMORY_CONTROL_FAIL = 5006
    ERROR_INTENT_DETECT_FAIL = 5007
    ERROR_MODEL_INFERENCE_FAIL = 5008
    ERROR_BITS_AND_BYTES_OPTIMIZATION_FAIL = 5009

    ERROR_GENERIC = 9999

    error_strings: dict[int, str] = {  # noqa: RUF012  # scripts of ITREX read it from here
        SUCCESS: "Done without an error",
        ERROR_OUT_OF_MEMORY: "The memory is full",
        ERROR_DEVICE_BUSY: "The device is in use",
        ERROR_DEVICE_NOT_FOUND: "The device is not there",
        ERROR_OUT_OF_STORAGE: "The disk is full",
        ERROR_DEVICE_NOT_SUPPORTED: "The device is not supported",
        ERROR_PLUGIN_NOT_SUPPORTED: "The plugin is not supported",
        ERROR_MODEL_NOT_FOUND: "The model was not found or cannot be loaded",
        ERROR_MODEL_CONFIG_NOT_FOUND: "The config of the model was not found",
        ERROR_TOKENIZER_NOT_FOUND: "The tokenizer was not found",
        ERROR_CACHE_DIR_NO_WRITE_PERMISSION: "The folder for models cannot be written",
        ERROR_INVALID_MODEL_VERSION: "The revision of the model was not found",
        ERROR_MODEL_NOT_SUPPORTED: "The model is not supported",
        ERROR_HF_TOKEN_NOT_PROVIDED: "A Hugging Face token is missing, or may not do this",
        WARNING_INPUT_EXCEED_MAX_SEQ_LENGTH: "The prompt is longer than the context of the model",
        WARNING_INPUT_COMPLETION_EXCEED_MAX_SEQ_LENGTH: "Prompt and answer are longer than the context of the model",
        ERROR_DATASET_NOT_FOUND: "The data set was not found or cannot be used",
        ERROR_DATASET_CONFIG_NOT_FOUND: "The configuration of the data set was not found",
        ERROR_VALIDATION_FILE_NOT_FOUND: "The file of validation rows was not found",
        ERROR_TRAIN_FILE_NOT_FOUND: "The file of training rows was not found",
        ERROR_DATASET_CACHE_DIR_NO_WRITE_PERMISSION: "The folder for data sets cannot be written",
        ERROR_PTUN_FINETUNE_FAIL: "Finetuning by ptun failed",
        ERROR_LORA_FINETUNE_FAIL: "Finetuning by lora failed",
        ERROR_LLAMA_ADAPTOR_FINETUNE_FAIL: "Finetuning by llama_adapter failed",
        ERROR_PREFIX_FINETUNE_FAIL: "Finetuning by prefix failed",
        ERROR_PROMPT_FINETUNE_FAIL: "Finetuning by prompt failed",
        ERROR_WEIGHT_ONLY_QUANT_OPTIMIZATION_FAIL: "The model cannot be quantised as its config asks",
        ERROR_AMP_OPTIMIZATION_FAIL: "The model cannot run in the precision its config asks for",
        ERROR_AUDIO_FORMAT_NOT_SUPPORTED: "The audio format is not supported",
        ERROR_RETRIEVAL_DOC_FORMAT_NOT_SUPPORTED: "The format of a document is not supported",
        ERROR_SENSITIVE_CHECK_FILE_NOT_FOUND: "The list of the safety checker was not found",
        ERROR_MEMORY_CONTROL_FAIL: "The memory of the conversation failed",
        ERROR_INTENT_DETECT_FAIL: "The intent of the query was not found out",
        ERROR_MODEL_INFERENCE_FAIL: "No answer could be generated",
        ERROR_BITS_AND_BYTES_OPTIMIZATION_FAIL: "The model cannot be quantised by bitsandbytes",
        ERROR_GENERIC: "Something failed",
    }
