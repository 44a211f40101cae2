"""What every section of a recipe is."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: immutable, and no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
