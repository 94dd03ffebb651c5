"""The papers, by the short names that rows give them, and how their figures were looked up."""

from .terms import Paper

MOBILEVLM = "MobileVLM"
MOBILEVLM_V2 = "MobileVLM V2"
IDEFICS2 = "Idefics2"
QWEN_VL = "Qwen-VL"
BLIP2 = "BLIP-2"
HONEYBEE = "Honeybee"
TOKENPACKER = "TokenPacker"
FASTVLM = "FastVLM"
SMOLVLM = "SmolVLM"
INTERNVL = "InternVL 1.5"
MM1 = "MM1"
DECO = "DeCo"
DIVT = "DiVT"
CAMBRIAN = "Cambrian-1"
DYNAMIC_LLAVA = "Dynamic-LLaVA"
LLAMA_CPP = "llama.cpp"

PAPERS = [
    Paper(MOBILEVLM, "Chu et al., 2023", "https://arxiv.org/abs/2312.16886", "text"),
    Paper(MOBILEVLM_V2, "Chu et al., 2024", "https://arxiv.org/abs/2402.03766", "notes"),
    Paper(IDEFICS2, "Laurençon et al., 2024", "https://arxiv.org/abs/2405.02246", "notes"),
    Paper(QWEN_VL, "Bai et al., 2023", "https://arxiv.org/abs/2308.12966", "quoted"),
    Paper(BLIP2, "Li et al., 2023", "https://arxiv.org/abs/2301.12597", "text"),
    Paper(HONEYBEE, "Cha et al., 2023", "https://arxiv.org/abs/2312.06742", "text"),
    Paper(TOKENPACKER, "Li et al., 2024", "https://arxiv.org/abs/2407.02392", "text"),
    Paper(FASTVLM, "Vasu et al., 2024", "https://arxiv.org/abs/2412.13303", "notes"),
    Paper(SMOLVLM, "Marafioti et al., 2025", "https://arxiv.org/abs/2504.05299", "notes"),
    Paper(INTERNVL, "Chen et al., 2024", "https://arxiv.org/abs/2404.16821", "notes"),
    Paper(MM1, "McKinzie et al., 2024", "https://arxiv.org/abs/2403.09611", "quoted"),
    Paper(DECO, "Yao et al., 2024", "https://arxiv.org/abs/2405.20985", "notes"),
    Paper(DIVT, "2026", "https://arxiv.org/abs/2605.17954", "notes"),
    Paper(CAMBRIAN, "Tong et al., 2024", "https://arxiv.org/abs/2406.16860", "notes"),
    Paper(DYNAMIC_LLAVA, "Huang et al., 2024", "https://arxiv.org/abs/2412.00876", "text"),
    Paper(
        LLAMA_CPP,
        "its page on MobileVLM",
        "https://github.com/ggml-org/llama.cpp/blob/master/docs/multimodal/MobileVLM.md",
        "text",
    ),
]
