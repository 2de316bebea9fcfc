"""The plain FastAPI and torch server that people write first."""

import base64
import sys

import uvicorn
import work
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Picture(BaseModel):
    image: str


class Answer(BaseModel):
    probabilities: list[float]


@app.post("/predict")
def predict(picture: Picture) -> Answer:
    return Answer(probabilities=work.classify(base64.b64decode(picture.image)))


if __name__ == "__main__":
    work.load()
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
