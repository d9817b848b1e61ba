"""A dataset card, with which the Hugging Face Hub loads a subset's tars and nothing else."""

from __future__ import annotations

import json
from typing import Any

from clipdre.emitting.place import CARD, SUMMARY
from clipdre.formats.files.outputs import OutputFolder

TEMPLATE = """---
configs:
- config_name: default
  data_files: "*.tar"
---

{kept:,} of {pool:,} image-text pairs, selected with clipdre {clipdre_version}.

The pairs are in WebDataset tars. Each has its scores in the Parquet file of the same name.
`{summary}` holds counts, digests and the full record of this selection:

```json
{record}
```
"""


def write_card(folder: OutputFolder, summary: dict[str, Any]) -> None:
    """Write the card of a subset with this `summary`."""
    record = {name: summary[name] for name in ("rule", "model")}
    # The rule is the user's text. As indented JSON, none of it can end the block.
    text = TEMPLATE.format(
        **{name: summary[name] for name in ("kept", "pool", "clipdre_version")},
        summary=SUMMARY,
        record=json.dumps(record, indent=2),
    )
    with folder.committed(CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")
