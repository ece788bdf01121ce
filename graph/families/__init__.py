"""Model families, one file each; ``FAMILIES`` is the table of those that are known."""

from aprgraph.graph.families.afmoe import Afmoe
from aprgraph.graph.families.apertus import Apertus
from aprgraph.graph.families.arcee import Arcee
from aprgraph.graph.families.baichuan import Baichuan
from aprgraph.graph.families.bailingmoe2 import BailingMoe2
from aprgraph.graph.families.base import Family
from aprgraph.graph.families.bert import Bert
from aprgraph.graph.families.bitnet import Bitnet
from aprgraph.graph.families.chatglm import ChatGlm
from aprgraph.graph.families.cohere2 import Cohere2
from aprgraph.graph.families.command_r import CommandR
from aprgraph.graph.families.dbrx import Dbrx
from aprgraph.graph.families.deci import Deci
from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.deepseek import DeepSeek
from aprgraph.graph.families.deepseek2 import DeepSeek2
from aprgraph.graph.families.dots1 import Dots1
from aprgraph.graph.families.ernie4_5 import Ernie45, Ernie45Moe
from aprgraph.graph.families.exaone import Exaone
from aprgraph.graph.families.exaone4 import Exaone4
from aprgraph.graph.families.exaone_moe import ExaoneMoe
from aprgraph.graph.families.falcon import Falcon
from aprgraph.graph.families.falcon_h1 import FalconH1
from aprgraph.graph.families.gemma import Gemma
from aprgraph.graph.families.gemma2 import Gemma2
from aprgraph.graph.families.gemma3 import Gemma3
from aprgraph.graph.families.gemma3n import Gemma3n
from aprgraph.graph.families.gemma4 import Gemma4
from aprgraph.graph.families.gemma_embedding import GemmaEmbedding
from aprgraph.graph.families.glm4 import Glm4
from aprgraph.graph.families.glm4moe import Glm4Moe
from aprgraph.graph.families.gpt2 import Gpt2
from aprgraph.graph.families.gpt_oss import GptOss
from aprgraph.graph.families.gptneox import GptNeoX
from aprgraph.graph.families.granite import Granite
from aprgraph.graph.families.granitehybrid import GraniteHybrid
from aprgraph.graph.families.granitemoe import GraniteMoe
from aprgraph.graph.families.hunyuan import HunyuanDense, HunyuanMoe
from aprgraph.graph.families.internlm2 import InternLm2
from aprgraph.graph.families.jais2 import Jais2
from aprgraph.graph.families.jamba import Jamba
from aprgraph.graph.families.lfm2 import Lfm2
from aprgraph.graph.families.lfm2moe import Lfm2Moe
from aprgraph.graph.families.llama import Llama
from aprgraph.graph.families.llama4 import Llama4
from aprgraph.graph.families.mamba import Mamba
from aprgraph.graph.families.mamba2 import Mamba2
from aprgraph.graph.families.mimo2 import Mimo2
from aprgraph.graph.families.minicpm import MiniCpm
from aprgraph.graph.families.minicpm3 import MiniCpm3
from aprgraph.graph.families.minimax_m2 import MiniMaxM2
from aprgraph.graph.families.mistral3 import Mistral3
from aprgraph.graph.families.mixture import Mixture
from aprgraph.graph.families.modern_bert import ModernBert
from aprgraph.graph.families.nemotron import Nemotron
from aprgraph.graph.families.nemotron_h import NemotronH, NemotronHMoe
from aprgraph.graph.families.nomic_bert import NomicBert
from aprgraph.graph.families.olmo import Olmo
from aprgraph.graph.families.olmo2 import Olmo2
from aprgraph.graph.families.olmoe import Olmoe
from aprgraph.graph.families.phi2 import Phi2
from aprgraph.graph.families.phi3 import Phi3
from aprgraph.graph.families.phimoe import PhiMoe
from aprgraph.graph.families.qwen2 import Qwen2
from aprgraph.graph.families.qwen2moe import Qwen2Moe
from aprgraph.graph.families.qwen2vl import Qwen2Vl
from aprgraph.graph.families.qwen3 import Qwen3
from aprgraph.graph.families.qwen3moe import Qwen3Moe
from aprgraph.graph.families.qwen3next import Qwen3Next
from aprgraph.graph.families.qwen3vl import Qwen3Vl, Qwen3VlMoe
from aprgraph.graph.families.qwen35 import Qwen35, Qwen35Moe
from aprgraph.graph.families.registry import FAMILIES, find_family, load_family_file, open_family, register
from aprgraph.graph.families.seed_oss import SeedOss
from aprgraph.graph.families.smollm3 import SmolLM3
from aprgraph.graph.families.stablelm import StableLm
from aprgraph.graph.families.starcoder import StarCoder
from aprgraph.graph.families.starcoder2 import StarCoder2

for _family in (
    Llama, Qwen2, Qwen2Moe, Qwen3, Qwen3Moe, Qwen3Next, Qwen35, Qwen35Moe, Gemma2, Gemma3, Phi3, Olmo2, Granite, Glm4, Glm4Moe, GptOss,
    Mistral3, SmolLM3, CommandR, Cohere2, Exaone4, SeedOss, Ernie45, DeepSeek2,
    HunyuanDense, HunyuanMoe, Apertus, StarCoder2, StableLm, Phi2, Gpt2, Nemotron,
    Ernie45Moe, Arcee, Lfm2, Lfm2Moe, Llama4, GemmaEmbedding, Mamba2, GraniteHybrid, Gemma4, Bert, NomicBert, ModernBert, Gemma3n,
    Gemma, Olmoe, GraniteMoe, MiniMaxM2, Dots1, ChatGlm, Qwen2Vl, Qwen3Vl, Qwen3VlMoe, GptNeoX, Exaone, PhiMoe, FalconH1, NemotronH, Jais2,
    NemotronHMoe, BailingMoe2, DeepSeek, MiniCpm, InternLm2,
    Falcon, MiniCpm3, Olmo, Baichuan, StarCoder, Dbrx,
    Mamba,
    Jamba,
    Afmoe,
    ExaoneMoe,
    Bitnet,
    Mimo2,
    Deci,
):  # fmt: skip
    register(_family)

__all__ = ["FAMILIES", "Decoder", "Family", "Mixture", "find_family", "load_family_file", "open_family", "register"]
