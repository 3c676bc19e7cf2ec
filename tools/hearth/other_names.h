// Options that users of llama.cpp and of ollama know, as data: other names of ours, and those whose meaning Hearth
// decides itself.
#pragma once

#include <string_view>

namespace hearth::tools {

/// Another name of an option of ours. Short names of several letters stand here, too: CLI11 would take "-ctk" for "-c
/// tk".
struct OtherName {
    std::string_view name, ours;
};
inline constexpr OtherName other_names[] = {
    {"-ctk", "--cache-type-k"},
    {"-ctv", "--cache-type-v"},
    {"-ngl", "--gpu-layers"},
    {"-np", "--parallel"},
    {"--n-gpu-layers", "--gpu-layers"},
    {"-cmoe", "--cpu-moe"},
    {"-ncmoe", "--n-cpu-moe"},
    {"-ub", "--ubatch-size"},
    {"--ubatch", "--ubatch-size"},
    {"-dev", "--device"},
    {"--n-predict", "--predict"},
    {"--num-predict", "--predict"},
    {"--context-length", "--ctx-size"},
    {"--num-ctx", "--ctx-size"},
    {"--temperature", "--temp"},
    {"--override-kv", "--override"},
    {"-sys", "--system"},
    {"--system-prompt", "--system"},
    {"-sysf", "--system-file"},
    {"--system-prompt-file", "--system-file"},
    {"--chat-template", "--template"},
    {"--chat-template-file", "--template"},
    {"-st", "--single-turn"},
    {"-co", "--color"},
    {"--num-thread", "--threads"},
    {"-mm", "--mmproj"},
};

/// Options of llama.cpp that change nothing here. `names`: with = where a value follows, with ? where on, off, auto, 0
/// or 1 may.
struct Decided {
    std::string_view names, why;
};
inline constexpr Decided decided[] = {
    {"-fa? --flash-attn?",
     "attention never stores its scores, on the CPU or the GPU: what other programs call flash attention is always on"},
    {"--mmap? --no-mmap -mmp= -dio --direct-io -ndio --no-direct-io -lm= --load-mode=",
     "model files are always mapped into memory, and what the GPU holds need not stay there"},
    {"--mlock", "pages of the model stay in memory as long as there is room: give it room, or a smaller model"},
    {"-tb= --threads-batch=", "prompts are computed by as many threads as answers, -t"},
    {"--numa= --prio= --prio-batch= --poll= --poll-batch= -C= --cpu-mask= -Cr= --cpu-range= --cpu-strict= -Cb= "
     "--cpu-mask-batch= -Crb= "
     "--cpu-range-batch= --cpu-strict-batch=",
     "threads stay where the system puts them; `taskset` and `numactl` can choose"},
    {"-sm= --split-mode= -mg= --main-gpu= -ts= --tensor-split=", "one GPU is used, and --device names it"},
    {"-kvo --kv-offload -nkvo --no-kv-offload", "keys and values lie where the attention of their layer is computed"},
    {"-ot= --override-tensor= -fit? --fit? -fitt= --fit-target= -fitc= --fit-ctx= --op-offload --no-op-offload -nopo "
     "--no-host --repack -nr --no-repack",
     "what lies where follows from --vram-budget, --gpu-layers, --n-cpu-moe and --placement"},
    {"-kvu --kv-unified -no-kvu --no-kv-unified -np= --parallel= -cb --cont-batching -nocb --no-cont-batching -dt= "
     "--defrag-thold= --swa-full "
     "-ctxcp= --ctx-checkpoints= -cram= --cache-ram=",
     "there is one conversation, whose cache needs no upkeep"},
    {"--context-shift --no-context-shift --keep=", "nothing is dropped from a full context: the text ends there"},
    {"--warmup --no-warmup", "nothing is computed before your text"},
    {"--jinja --no-jinja --skip-chat-parsing --no-skip-chat-parsing --reasoning-format=",
     "the model's own chat template is always used, and what the model writes is shown as it is"},
    {"-v --verbose --log-verbose -lv= --verbosity= --log-verbosity= --log-disable --log-enable --log-prefix "
     "--no-log-prefix --log-timestamps "
     "--no-log-timestamps --log-colors? --perf --no-perf --show-timings --no-show-timings --verbose-prompt --simple-io "
     "-mli --multiline-input "
     "--log-file=",
     "what is said besides the text is a line before and one after, on stderr; --stats has every figure"},
    {"--samplers= --sampler-seq= --sampling-seq=",
     "samplers come in one order: penalties, top-k, top-p, min-p, temperature"},
    {"--display-prompt --no-display-prompt",
     "`run` shows the text before what follows, unless --no-display-prompt says otherwise; others show no text"},
    {"--no-escape", "the text of -p is taken as it is typed unless -e says otherwise"},
    {"--color?", "only `run` colours its prompt"},
    {"-no-cnv --no-conversation", "`run` continues a text; `chat` is the conversation"},
    {"--penalize-nl --no-penalize-nl", "a line end is a token like others"},
    {"--check-tensors", "a file's structure is checked as it is read, and logits that are not numbers are an error"},
    {"--offline", "nothing is downloaded"},
};

/// Options of llama.cpp that would change the result and are not there; with one of the values in `neutral` (between
/// spaces) they are off there, too.
struct Missing {
    std::string_view names, neutral, why;
};
inline constexpr std::string_view no_such_sampler =
    "the samplers are --temp, --top-k, --top-p, --min-p, --repeat-penalty, --presence-penalty and "
    "--frequency-penalty";
inline constexpr Missing missing[] = {
    {"--mirostat=", " 0 ", no_such_sampler},
    {"--mirostat-lr= --mirostat-ent= --typical= --typical-p= --top-nsigma= --top-n-sigma= "
     "--xtc-probability= --xtc-threshold= "
     "--dry-multiplier= --dry-base= --dry-allowed-length= --dry-penalty-last-n= --dry-sequence-breaker= "
     "--dynatemp-range= --dynatemp-exp= "
     "--adaptive-target= --adaptive-decay= --tfs=",
     " 0 0.0 1 1.0 -1 -1.0 ", no_such_sampler},
    {"--grammar= --grammar-file= -j= --json-schema= -jf= --json-schema-file= -l= --logit-bias=", "",
     "answers cannot be constrained"},
    {"--lora= --lora-scaled= --control-vector= --control-vector-scaled= --lora-base=", "",
     "adapters are not applied: merge them into the model before it is converted"},
    {"--audio= --video=", "", "models take texts and images"},
    {"-md= --model-draft= --draft= --draft-max= --draft-n= --spec-draft-model= -ngld= --spec-type=", "",
     "there is no draft model"},
    {"-hf= -hfr= --hf-repo= -hff= --hf-file= -mu= --model-url= -dr= --docker-repo=", "",
     "nothing is downloaded: fetch the file, and name it with -m"},
    {"-r= --reverse-prompt= --in-prefix= --in-suffix=", "",
     "`chat` takes turns by the model's template, and `run` ends where the model ends, or with -n"},
    {"-bf= --binary-file=", "", "texts are read as UTF-8, with -f"},
    {"--prompt-cache= --prompt-cache-all --prompt-cache-ro --slot-save-path=", "", "prompts are computed anew"},
    {"--rpc= --host= --port= --server-base=", "", "all is computed on this machine, by this program"},
    {"--chat-template-kwargs=", "", "templates are rendered with their defaults"},
};

/// Subcommands of ollama, and what does that here.
struct OtherCommand {
    std::string_view name, instead;
};
inline constexpr OtherCommand other_commands[] = {
    {"pull", "nothing is downloaded; fetch a GGUF file, and name it: `hearth run MODEL.gguf`"},
    {"push", "models are files, and stay on this machine"},
    {"list", "models are files, which `hearth run MODEL.gguf` names"},
    {"ls", "models are files, which `hearth run MODEL.gguf` names"},
    {"show", "`hearth inspect MODEL.gguf` shows what is in a model"},
    {"create", "`hearth quantize MODEL.gguf OUT.gguf TYPE` and tools/models/convert.py make models"},
    {"serve", "`hearth run` and `hearth chat` answer by themselves, without a server"},
    {"ps", "a model is in memory as long as its `hearth run` or `hearth chat`"},
    {"stop", "a model is in memory as long as its `hearth run` or `hearth chat`"},
    {"rm", "models are files, and removed as files are"},
    {"cp", "models are files, and copied as files are"},
};

/// Options that make `run` the conversation that `chat` is; the last ones mean something there.
inline constexpr std::string_view conversation_options[] = {"-i",   "--interactive",  "-if",  "--interactive-first",
                                                            "-cnv", "--conversation", "-ins", "--instruct"};
inline constexpr std::string_view of_conversations[] = {"--system", "--system-file", "--template", "--single-turn"};

}    // namespace hearth::tools
