"""x"""
import typer

app=typer.Typer()
@app.command("diff")
def d()->None:
    """x"""
