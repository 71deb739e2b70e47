"""Calls of language models, in every format: only lines with the subcategory "Generative AI" can reach runs by their callers or traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.azure_files import cost, text
from tests.cur_files import line, write_cur
from tests.focus_files import nights, row, write_bytes, write_csv
from tests.gcp_files import gcp
from tests.gcp_files import write_csv as write_gcp

CALLS, ML = "Generative AI", "Machine Learning"
# Service, meter and description of a line, the subcategory that the bill states, and the subcategory of the loaded line.
# The spellings are those of the providers' price lists and exports.
LINES = [
    ("Amazon Bedrock", "USE1-ClaudeSonnet4-input-tokens", "", "", CALLS),
    ("Amazon Bedrock", "USE1-Nova-ProvisionedThroughput", "$7.20 per model unit hour", "", CALLS),
    ("Amazon Bedrock", "USW2-Llama3-3-70B-Customization-Training", "", "", ""),
    ("Amazon Bedrock", "USE1-Titan-Customization-Storage", "", CALLS, ML),
    ("Amazon Bedrock AgentCore", "USE1-Consumption-based:Runtime:vCPU", "", "", ""),
    ("Claude Sonnet 4 (Amazon Bedrock Edition)", "", "AWS Marketplace software usage", "", CALLS),
    ("cf0n4p5cs0t1vkwq", "USE1-MP:USE1_InputTokenCount-Units", "AWS Marketplace software usage", "", CALLS),
    ("Vertex AI", "", "Gemini 2.5 Pro Text Input - Predictions", "", CALLS),
    ("Vertex AI", "Gemini 3.6 Flash Text Input Caching Storage", "", "", CALLS),
    ("Vertex AI", "Claude Haiku 4.5 - Output Tokens", "", "", CALLS),
    ("Vertex AI", "Gemini 2.0 Flash Tuning", "", "", ""),
    ("Vertex AI", "Vertex AI: Online/Batch Prediction N1 Predefined Instance Core running in Americas", "", "", ""),
    ("Vertex AI", "Vertex AI: Online Prediction Gemma on Nvidia L4 GPU", "Llama 3 endpoint", "", ""),
    ("Vertex AI", "Vertex AI: Training/Pipelines on A2 Instance Core", "", "", ""),
    ("Claude 3.5 Sonnet", "Claude 3.5 Sonnet - Input Tokens", "", "", CALLS),
    ("Generative Language API", "", "", "", CALLS),
    ("Gemini API", "", "", "", CALLS),
    ("Gemini for Google Cloud", "Gemini Code Assist Standard", "", "", ""),
    ("Azure OpenAI", "gpt-4o 1120 Inp glbl Tokens", "", "", CALLS),
    ("Azure OpenAI", "Provisioned Managed Global Unit", "", "", CALLS),
    ("Azure OpenAI", "gpt-4o Fine-Tuning Training", "", CALLS, ML),
    ("Cognitive Services", "", "Azure OpenAI - gpt 4.1 cached Inp glbl Tokens - US East 2", "", CALLS),
    ("Cognitive Services", "S1 Speech To Text", "Speech", "AI Platforms", "AI Platforms"),
    ("Foundry Models", "V4 Pro Inp glbl Tokens", "", "", CALLS),
    ("Azure Machine Learning", "Meta-Llama-3.1 Input Tokens", "", "", CALLS),
    ("Azure Machine Learning", "NC6s v3", "", ML, ML),
    ("Anthropic", "", "", "", CALLS),
    ("A gateway", "", "", CALLS, CALLS),
    ("Amazon SageMaker", "USE1-Train:ml.g5.xlarge", "", "", ""),
    ("Amazon Cognito", "USE1-CognitoM2MTokenRequests", "", "", ""),
    ("Amazon Elastic Compute Cloud", "BoxUsage:p4d.24xlarge", "gemini-team's machine", "", ""),
]


def test_the_names_on_a_line_show_whether_it_is_for_calls_of_a_model(tmp_path: Path) -> None:
    rows = [
        row(str(n + 1), ServiceName=service, SkuMeter=meter, ChargeDescription=words, ServiceSubcategory=stated, ServiceCategory="Other", ResourceId="")
        for n, (service, meter, words, stated, _) in enumerate(LINES)
    ]  # fmt: skip
    bill = nights(tmp_path, write_csv(tmp_path / "bill.csv", rows))
    bill.load()
    found = {entry["billed_cost"]: (entry["service_subcategory"] or "", entry["service_category"]) for entry in bill.lines()}
    assert [(*LINES[int(cost) - 1][:4], subcategory) for cost, (subcategory, _) in sorted(found.items())] == LINES
    for subcategory, category in found.values():
        assert category == ("AI and Machine Learning" if subcategory == CALLS else "Other")


def test_focus_1_0_has_no_subcategory_and_no_meter(tmp_path: Path) -> None:
    bill = nights(
        tmp_path,
        write_csv(tmp_path / "bill.csv", [row(ServiceName="Amazon Bedrock", ServiceCategory="AI and Machine Learning", ResourceId="")]),
    )
    bill.load()
    assert [entry["service_subcategory"] for entry in bill.lines()] == [CALLS]


BEDROCK = {"line_item_product_code": "AmazonBedrock", "line_item_usage_type": "USE1-Claude-input-tokens", "product_servicecode": "AmazonBedrock", "product_instance_type": ""}  # fmt: skip
MARKETPLACE = {
    **BEDROCK,
    "line_item_product_code": "cf0n4p5cs0t1vkwq",
    "bill_billing_entity": "AWS Marketplace",
    "line_item_legal_entity": "Anthropic",
}


@pytest.mark.parametrize("caller", [{}, {"line_item_iam_principal": ""}, {"line_item_iam_principal": "arn:aws:iam::1:role/x"}])
@pytest.mark.parametrize("product", [BEDROCK, {**MARKETPLACE, "product_name": "Claude Sonnet 4 (Amazon Bedrock Edition)"}])
def test_a_cur_bills_calls_with_and_without_callers(tmp_path: Path, product: dict[str, str], caller: dict[str, str]) -> None:
    bill = nights(tmp_path, write_cur(tmp_path / "cur.csv", [line(**product, **caller)]), format="aws-cur")
    bill.load()
    assert [(entry["service_category"], entry["service_subcategory"]) for entry in bill.lines()] == [("AI and Machine Learning", CALLS)]


def test_google_bills_calls_of_gemini_beside_machines(tmp_path: Path) -> None:
    skus = {
        "Gemini 2.5 Pro Text Input - Predictions": CALLS,
        "Claude Sonnet 4 - Input Tokens": CALLS,
        "Online/Batch Prediction N1 Instance Core": None,
    }
    rows = [gcp(service={"id": "C7E2-9256-1C43", "description": "Vertex AI"}, sku={"id": sku, "description": sku}) for sku in skus]
    bill = nights(tmp_path, write_gcp(tmp_path / "bill.csv", rows), format="gcp")
    bill.load()
    assert {entry["sku_meter"]: entry["service_subcategory"] for entry in bill.lines()} == skus


def test_azure_bills_openai_as_a_meter_of_other_services(tmp_path: Path) -> None:
    meters = {
        ("Azure OpenAI", "gpt-4o 1120 Inp glbl Tokens"): CALLS,
        ("Cognitive Services", "Azure OpenAI - gpt-4o Inp Tokens"): CALLS,
        ("Foundry Models", "Grok 4.1 Inp Glbl Tokens"): CALLS,
        ("Azure OpenAI", "gpt-4o Training Hours"): ML,
        ("Cognitive Services", "S1 Speech To Text"): "AI Platforms",
        ("Virtual Machines", "NC6s v3"): "Virtual Machines",
    }
    rows = [cost("1.00", MeterCategory=service, MeterName=meter, Quantity="1") for service, meter in meters]
    bill = nights(tmp_path, write_bytes(tmp_path / "bill.csv", text(rows).encode()), format="azure")
    bill.load()
    assert {(entry["service_name"], entry["sku_meter"]): entry["service_subcategory"] for entry in bill.lines()} == meters
